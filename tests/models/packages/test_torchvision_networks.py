"""Networks of torchvision, without network: weights are where it keeps those that it fetched."""

from pathlib import Path

import pytest
import torch

from amc.data.arrays.preprocessing import Preprocessing
from amc.models.catalog import build, facts
from data_streams import Payload, refused

models = pytest.importorskip("torchvision.models", reason="needs amc-pruning[vision]")
pytestmark = pytest.mark.filterwarnings("ignore")

NAME = "squeezenet1_1"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that torchvision takes for the published weights."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints" / Path(models.SqueezeNet1_1_Weights.DEFAULT.url).name


def test_facts_are_those_of_the_weights() -> None:
    about = facts("torchvision:resnet50")
    assert about and about.classes == 1000 and "IMAGENET1K_V2" in about.weights
    assert about.preprocessing == Preprocessing(224, 224 / 232, source="torchvision:resnet50")
    about = facts("torchvision:resnet50?weights=IMAGENET1K_V1")
    assert about and about.preprocessing and about.preprocessing.crop == 0.875
    about = facts("torchvision:inception_v3")
    assert about and about.preprocessing and about.preprocessing.side == 299


def test_weights_are_loaded(kept: Path) -> None:
    model = models.get_model(NAME).eval()
    torch.save(model.state_dict(), kept)
    found = build(f"torchvision:{NAME}", num_classes=1000, in_channels=3, weights=True).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(found(images), model(images))


def test_code_in_them_is_not_run(kept: Path, tmp_path: Path) -> None:
    torch.save({"features.0.weight": Payload(tmp_path / "mark")}, kept)

    def load() -> None:
        build(f"torchvision:{NAME}", num_classes=1000, in_channels=3, weights=True)

    refused(load, f"torchvision:{NAME}")
    assert not (tmp_path / "mark").exists()


def test_random_weights_and_other_heads() -> None:
    found = build(f"torchvision:{NAME}", num_classes=7, in_channels=3).eval()
    assert found(torch.randn(1, 3, 64, 64)).shape == (1, 7)
    refused(lambda: build(f"torchvision:{NAME}", num_classes=7, in_channels=1), "3 channels")
    refused(lambda: build("torchvision:resnt18", num_classes=7, in_channels=3), "resnet18")
    refused(lambda: facts("torchvision:resnet18?weights=V7"), "?weights=IMAGENET1K_V1")
    refused(
        lambda: build(f"torchvision:{NAME}", num_classes=7, in_channels=3, weights=True),
        "1000 outputs", "7 classes", "--checkpoint FILE",
    )  # fmt: skip
