"""Every setting of ``python -m amc.compare``."""

from dataclasses import dataclass
from pathlib import Path

from amc.config.train import Shared, TrainConfig
from amc.runtime.files import as_paths
from amc.runtime.limits import whole


@dataclass(frozen=True)
class CompareConfig(Shared):
    """Lets all ways to find a strategy compete: same network, images, budget and evaluations."""

    preserve_ratio: float = 0.5
    """Part of the multiply-accumulates (MACs) that stays, in (0, 1]; never exceeded."""
    methods: tuple[str, ...] = (
        "ddpg",
        "td3",
        "sac",
        "screened",
        "evolution",
        "random",
        "greedy",
        "uniform",
    )
    """Who competes; in the end the first is compared with each of the others."""
    seeds: int = 3
    """Searches per method; greedy and uniform know no chance and need one evaluation."""

    episodes: int = 200
    """Strategies that every search tries."""
    warmup_episodes: int = 10
    """The first of an agent's, uniform once, then suggested or random, before it learns."""
    apply: bool = True
    """Cut the best strategy of every search for real, and tell its accuracy."""

    run_dir: Path | None = None
    """Folder of the comparison; default runs/compare-<model>-<data>-<ratio>. The same command goes
    on with what it finds there."""

    def __post_init__(self) -> None:
        as_paths(self)
        whole("seeds", self.seeds, 1)
        _ = self.training  # which checks all the other settings

    @property
    def training(self) -> TrainConfig:
        """The run whose search is compared; it ends with the cut."""
        return self.into(TrainConfig, mode="auto", finetune_epochs=0)
