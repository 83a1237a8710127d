"""Settings of ``python -m amc.apply``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from amc.config.sections.recovery import DistillConfig, StagesConfig, TrainingConfig
from amc.config.sections.search import AllocationConfig, ResourcesConfig, SearchConfig
from amc.config.sections.sparse_target import refuse_zeros
from amc.config.train import check_ratios, check_shared, check_task
from amc.graph.restrictions import Restrictions
from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths, safe_name
from amc.runtime.limits import flag, whole, within


@dataclass(frozen=True)
class ApplyConfig(Composed):
    """Applies a learned policy to a budget and network, or a plan to another checkpoint."""

    command = "amc.apply"
    anew = ("memory", "quiet", "json", "trust")

    policy: Path | None = None
    """A learned policy: the folder of a run, or .../policy."""
    plan: Path | None = None
    """Instead of a policy: plan.json of a run of the same network, or its folder."""
    preserve_ratio: float = 0.5
    """For a policy: part of the MACs, or of another --objective, that stays, in (0, 1]; never
    exceeded."""
    episodes: int = 0
    """Strategies that are tried beginning with the policy's; 0: its own at once."""
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    restrictions: Restrictions = Restrictions()
    limits: ObjectiveConfig = ObjectiveConfig()
    counts: CountsConfig = CountsConfig()
    reward: RewardConfig = RewardConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    training: TrainingConfig = TrainingConfig()
    distill: DistillConfig = DistillConfig()
    machine: MachineConfig = MachineConfig()
    run_dir: Path | None = None
    """Folder of this run; default runs/<model>-<data>-<mode>-<ratio>-seed<seed>."""
    resume: Path | None = None
    """Folder of a run of this command that was stopped: goes on with its settings, to the same
    result. Besides, only --memory, --quiet, --json and --trust may be given."""
    trust: bool = False
    """Use run folders, policies and plans of other users; they name code that runs here."""
    seed: int = 0
    """The same seed on the same machine gives the same result, bit for bit."""

    def __post_init__(self) -> None:
        as_paths(self)
        refuse_zeros(self.command, self.restrictions, self.reconstruction)
        if self.resume is None and (self.policy is None) == (self.plan is None):
            raise AmcError("give either --policy FOLDER or --plan FILE")
        whole("episodes", self.episodes, 0)
        if self.plan is not None:
            for name in ("episodes", "preserve_ratio"):
                if getattr(self, name) != getattr(ApplyConfig, name):
                    raise AmcError(f"{flag(name)} belongs to --policy, not to --plan")
        within("--preserve-ratio", self.preserve_ratio, 0, 1)
        check_ratios(self.limits, self.preserve_ratio)
        whole("seed", self.seed, 0)
        check_task(self.data, self.training, StagesConfig())
        if self.resume is None:
            check_shared(self.reward, self.reconstruction, self.allocation, StagesConfig())

    @property
    def allocation(self) -> AllocationConfig:
        """What decides: a plan, a policy, or a search that begins with one."""
        mode: Literal["plan", "auto", "policy"]
        mode = "plan" if self.plan else "auto" if self.episodes else "policy"
        return AllocationConfig(mode, policy=self.policy, plan=self.plan)

    @property
    def search(self) -> SearchConfig:
        """What tries further strategies."""
        return SearchConfig(episodes=max(1, self.episodes))

    @property
    def resources(self) -> ResourcesConfig:
        """What that may take."""
        return ResourcesConfig()

    @property
    def cuts(self) -> bool:
        """Whether channels or heads are removed."""
        return True

    @property
    def target(self) -> float | None:
        """Part that may stay; None where a plan was given instead, or several parts."""
        return None if self.plan or self.limits.has_ratios else self.preserve_ratio

    @property
    def folder(self) -> Path:
        """Where everything goes; it need not exist."""
        if given := self.resume or self.run_dir:
            return given
        words = [self.network.model, self.data.data, self.allocation.mode, *self.limits.words]
        if self.target is not None:
            words.append(f"{self.preserve_ratio:g}")
        name = safe_name("-".join([*words, f"seed{self.seed}"]))
        return Path("runs") / name
