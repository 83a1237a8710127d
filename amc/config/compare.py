"""Settings of ``python -m amc.compare``."""

from dataclasses import dataclass
from pathlib import Path

from amc.config.composed import Composed
from amc.config.sections.job import (
    CountsConfig,
    DataConfig,
    MachineConfig,
    NetworkConfig,
    ReconstructionConfig,
    RewardConfig,
)
from amc.config.sections.objective import ObjectiveConfig
from amc.config.sections.recovery import StagesConfig
from amc.config.sections.search import AllocationConfig
from amc.config.sections.sparse_target import refuse_zeros
from amc.config.train import check_ratios, check_shared
from amc.graph.restrictions import Restrictions
from amc.runtime.files import as_paths, safe_name
from amc.runtime.limits import whole, within


@dataclass(frozen=True)
class CompareConfig(Composed):
    """Lets all ways to find a strategy compete: same network, images, budget and evaluations."""

    command = "amc.compare"

    preserve_ratio: float = 0.5
    """Part of the multiply-accumulates (MACs), or of another --objective, that stays, in (0, 1];
    never exceeded."""
    methods: tuple[str, ...] = (
        "ddpg",
        "td3",
        "sac",
        "screened",
        "evolution",
        "random",
        "knapsack",
        "uniform",
    )
    """Who competes, any of ddpg, td3, sac, screened, evolution, random, annealing, cem, legr,
    greedy, and, with one evaluation, ranking, sensitivity, knapsack, uniform; in the end the first
    is compared with each of the others."""
    seeds: int = 3
    """Searches per method; what knows no chance needs one."""
    episodes: int = 200
    """Strategies that every search tries."""
    warmup_episodes: int = 10
    """The first of an agent's, uniform once, then suggested or random, before it learns."""
    apply: bool = True
    """Cut the best strategy of every search for real, and tell its accuracy."""
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    restrictions: Restrictions = Restrictions()
    limits: ObjectiveConfig = ObjectiveConfig()
    counts: CountsConfig = CountsConfig()
    reward: RewardConfig = RewardConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    machine: MachineConfig = MachineConfig()
    run_dir: Path | None = None
    """Folder of the comparison; default runs/compare-<model>-<data>-<ratio>. The same command goes
    on with what it finds there."""

    def __post_init__(self) -> None:
        as_paths(self)
        refuse_zeros(self.command, self.restrictions, self.reconstruction)
        within("--preserve-ratio", self.preserve_ratio, 0, 1)
        check_ratios(self.limits, self.preserve_ratio)
        check_shared(self.reward, self.reconstruction, AllocationConfig(), StagesConfig())
        for name, least in (("seeds", 1), ("episodes", 1), ("warmup_episodes", 0)):
            whole(name, getattr(self, name), least)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        words = ["compare", self.network.model, self.data.data, *self.limits.words]
        ratio = [] if self.limits.has_ratios else [f"{self.preserve_ratio:g}"]
        name = "-".join([*words, *ratio])
        return self.run_dir or Path("runs") / safe_name(name)
