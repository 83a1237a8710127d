"""Networks of timm, without network."""

from pathlib import Path

import pytest
import torch

from amc.models.catalog import build, facts
from data_streams import refused

timm = pytest.importorskip("timm", reason="needs amc-pruning[timm]")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_facts_are_those_of_timm() -> None:
    for name in ("resnet18", "vit_tiny_patch16_224", "inception_v3", "resnet10t"):
        wanted = timm.data.resolve_model_data_config(timm.create_model(name))
        about = facts(f"timm:{name}")
        assert about and about.preprocessing and about.classes == 1000
        shown = about.preprocessing
        assert shown.shape == wanted["input_size"] and shown.crop == wanted["crop_pct"]
        assert (shown.mean, shown.std) == (wanted["mean"], wanted["std"])
        assert shown.resampling.name.lower() == wanted["interpolation"]


def test_a_network_with_as_many_outputs_as_the_data() -> None:
    first, again = (build("timm:resnet10t", num_classes=7, in_channels=1) for _ in range(2))
    images = torch.randn(2, 1, 64, 64)
    assert torch.equal(first.eval()(images), again.eval()(images))
    assert first(images).shape == (2, 7)


def test_a_folder_with_weights(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=3).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    found = build(f"timm:local-dir:{tmp_path}", num_classes=3, in_channels=3, weights=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(found.eval()(images), model(images))


def test_what_is_wrong_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(lambda: facts("timm:resnet181"), "timm has no such network")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def fetched() -> None:
        build("timm:resnet10t", num_classes=1000, in_channels=3, weights=True)

    refused(fetched, "--model timm:resnet10t", "--checkpoint FILE")

    def other_head() -> None:
        build("timm:resnet18", num_classes=10, in_channels=3, weights=True)

    refused(other_head, "1000 outputs", "10 classes", "--checkpoint FILE")
