"""One thread in every test: small tensors gain nothing from more, and sums stay the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from amc.calibration import least_squares
from amc.data import load_data
from amc.exporters.source import write
from amc.models.catalog import build
from amc.objectives import latency
from amc.reporting.tensorboard import pictures
from amc.training.recipe import Recipe
from amc.training.trainer import train
from made_once import made_once
from quick_latency import QUICK

FEW_DIGITS = """
from dataclasses import replace
import torch
from amc.data import TensorLoader, load_data

def digits():
    data = load_data("digits")
    images, labels = (torch.cat(parts)[:256] for parts in zip(*data.calibration))
    train = TensorLoader(images, labels, batch_size=64, shuffle=True)
    calibration = TensorLoader(images, labels, batch_size=64)
    return replace(data, name="few", train=train, calibration=calibration)
"""

settings.register_profile("patient", deadline=None)  # a busy machine is no fault
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares without the caution that few rows ask for, to be compared with lstsq."""
    monkeypatch.setattr(least_squares, "SCARCE", 0.0)


MEASURED = {name: getattr(latency, name) for name in QUICK}


@pytest.fixture(scope="session", autouse=True)
def hasty() -> Iterator[None]:
    """Whole runs need no exact times: short turns, no exports, no pictures."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setattr(latency, name, value)
        patch.setattr(write, "made", lambda *_: ("", 0.0))
        patch.setattr(pictures, "_drawn", lambda make: np.zeros((1, 1, 4), dtype=np.uint8))
        yield


@pytest.fixture
def as_measured(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency as users have it."""
    for name, value in MEASURED.items():
        monkeypatch.setattr(latency, name, value)


MADE = write.made


@pytest.fixture
def as_written(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pruned.py`` as users have it; elsewhere it is empty."""
    monkeypatch.setattr(write, "made", MADE)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-20 that was trained for two epochs."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
        train(model, load_data("digits").train, Recipe(2, 0.05))
        save_file(model.state_dict(), folder / "resnet20.safetensors")

    return made_once(tmp_path_factory, "checkpoint", make) / "resnet20.safetensors"


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Data of the user's own: a fifth of the digits, for epochs of four steps."""

    def make(folder: Path) -> None:
        (folder / "few.py").write_text(FEW_DIGITS)

    return f"{made_once(tmp_path_factory, 'few_digits', make) / 'few.py'}:digits"
