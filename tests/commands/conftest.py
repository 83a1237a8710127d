"""Runs that several commands look at, each made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amc.config.train import TrainConfig
from amc.train import run
from made_once import made_once
from small_runs import EPISODES, NETWORK, SMALL


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run of a second or two."""
    folder = made_once(
        tmp_path_factory, "tiny", lambda folder: (folder / "net.py").write_text(NETWORK)
    )
    path = folder / "net.py"
    return dict(
        model=f"{path}:net", reward=f"{path}:reward", episodes=EPISODES, warmup_episodes=3,
        finetune_epochs=1, regime="finetune", reward_steps=2, calibration_batches=2,
        reward_images=60, device="cpu", quiet=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        run(TrainConfig.of(checkpoint=checkpoint, run_dir=folder / "auto", **SMALL))

    return made_once(tmp_path_factory, "finished", make) / "auto"


@pytest.fixture(scope="session")
def undisturbed(
    tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Runs that nothing came in the way of."""

    def folder(**settings: Any) -> Path:
        def make(folder: Path) -> None:
            run(TrainConfig.of(run_dir=folder / "run", **{**tiny, **settings}))

        name = "-".join(f"{k}-{v}" for k, v in settings.items()) or "plain"
        return made_once(tmp_path_factory, name, make) / "run"

    return folder
