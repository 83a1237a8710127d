"""One thread in every test: small tensors gain nothing from more, and sums stay the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file
from torch import nn

from amc.calibration import least_squares
from amc.data import load_data
from amc.models.catalog import build
from amc.objectives import latency
from amc.runtime import feed
from amc.tasks.evaluate import evaluating
from amc.training.recipe import Recipe
from amc.training.trainer import train
from made_once import made_once

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


@pytest.fixture(autouse=True)
def hasty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole runs need no exact times: short turns, and no export, which takes seconds.

    Latency itself is measured as it is in its own tests.
    """
    if request.module.__name__.endswith("test_latency"):
        return

    def session(model: nn.Module, sample: feed.Feed, threads: int = 1) -> latency.Run:
        def run() -> object:
            with torch.inference_mode(), evaluating(model):
                return feed.call(model, sample)

        return run

    monkeypatch.setattr(latency, "ROUNDS", 2)
    monkeypatch.setattr(latency, "SECONDS", 1e-3)
    monkeypatch.setattr(latency, "session", session)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-20 that was trained for two epochs."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
        train(model, load_data("digits").train, Recipe(2, 0.05))
        save_file(model.state_dict(), folder / "resnet20.safetensors")

    return made_once(tmp_path_factory, "checkpoint", make) / "resnet20.safetensors"
