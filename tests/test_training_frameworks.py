"""Lightning and Accelerate as the page shows them: the blocks are run as they stand."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import amc

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
pytestmark = pytest.mark.filterwarnings("ignore")  # what other packages warn of is their affair


def shown(name: str) -> dict[str, Any]:
    """The names that a block of the page defines; it searches a little less."""
    (block,) = re.findall(
        rf"<!-- example: {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.S
    )
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(block.replace("episodes=50", "episodes=5"), str(PAGE), "exec"), names)
    return names


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3),
        nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2),
    )  # fmt: skip


def images() -> TensorDataset:
    """Stripes across or down, with noise."""
    torch.manual_seed(0)
    waves, labels = torch.arange(10.0).sin().expand(256, 1, 10, 10), torch.arange(256) % 2
    turned = torch.where(labels.view(-1, 1, 1, 1) > 0, waves.mT, waves)
    return TensorDataset(turned + torch.randn(256, 1, 10, 10) / 2, labels)


def macs(model: nn.Module) -> int:
    return amc.trace(model, (torch.zeros(2, 1, 10, 10),)).macs()


def right(model: nn.Module) -> float:
    x, y = images().tensors
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate")
    loader, given = DataLoader(images(), 64, shuffle=True), network()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    prepared = accelerate.Accelerator(cpu=True).prepare(given)
    found = shown("accelerate")["smaller"](prepared, loader, DataLoader(images(), 64))
    assert macs(found) <= macs(given) / 2 and right(found) > 0.95
    assert all(torch.equal(before[name], t) for name, t in given.state_dict().items())


def test_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = pytest.importorskip("lightning", reason="needs lightning")
    trainer, quiet = lightning.Trainer, {"accelerator": "cpu", "enable_progress_bar": False,
                                         "enable_model_summary": False}  # fmt: skip
    monkeypatch.setattr(lightning, "Trainer", lambda **given: trainer(**{**given, **quiet}))
    names = shown("lightning")

    class Stripes(lightning.LightningDataModule):  # type: ignore[name-defined,misc]
        def setup(self, stage: str) -> None:
            self.images = images()

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.images, 64, shuffle=True)

        def val_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.images, 64)

    given = names["Classifier"](network())
    found = names["smaller"](given, Stripes())
    assert isinstance(found, names["Classifier"]) and found.network is not given.network
    assert macs(found) <= macs(given) / 2 and right(found) > 0.95
