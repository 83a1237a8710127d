"""Settings of ``python -m amc.learn`` and ``python -m amc.pareto``, which know many budgets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

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
from amc.config.sections.search import AllocationConfig
from amc.config.sections.sparse_target import refuse_zeros
from amc.config.train import check_shared, check_task
from amc.graph.restrictions import Restrictions
from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths, safe_name
from amc.runtime.limits import below, real, shown, whole, within


@dataclass(frozen=True)
class LearnConfig(Composed):
    """Learns one policy for many budgets and networks."""

    command = "amc.learn"

    preserve_ratio: str = "0.3:0.7"
    """Parts of the multiply-accumulates (MACs), or of another --objective, to learn for: a range
    (0.3:0.7), or a list (0.3,0.5,0.7)."""
    targets: int = 5
    """Budgets in a range, evenly spaced."""
    episodes: int = 200
    """Strategies that are tried, shared out evenly among budgets and networks."""
    agent: Literal["ddpg", "td3", "sac"] = "ddpg"
    """What learns."""
    prior: Literal["uniform", "sensitivity", "cem"] = "uniform"
    """What its actions are residuals on: one ratio for all groups, wider groups where
    reconstruction errors are large, or four numbers that the first fifth of the episodes finds."""
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    restrictions: Restrictions = Restrictions()
    limits: ObjectiveConfig = ObjectiveConfig()
    counts: CountsConfig = CountsConfig()
    reward: RewardConfig = RewardConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    machine: MachineConfig = MachineConfig()
    run_dir: Path | None = None
    """Folder of the policy; default runs/learn-<models>-<data>-<ratios>-seed<seed>. The same
    command goes on with what it finds there."""
    seed: int = 0
    """The same seed on the same machine gives the same result, bit for bit."""

    def __post_init__(self) -> None:
        as_paths(self)
        refuse_zeros(self.command, self.restrictions, self.reconstruction)
        whole("seed", self.seed, 0)
        whole("episodes", self.episodes, 1)
        without_ratios(self.limits)
        check_shared(self.reward, self.reconstruction, AllocationConfig(), StagesConfig())
        model = self.network.model
        if not self.models:
            raise AmcError(f"--model {model!r} names no network")
        if self.network.checkpoint and len(self.models) > 1:
            raise AmcError(f"--checkpoint belongs to one network, --model names {model!r}")
        if self.each < 2:
            count = len(self.models) * len(self.ratios)
            raise AmcError(
                f"--episodes {self.episodes}: two or more for each of {count} budgets are needed; "
                f"the least is {2 * count}"
            )

    @property
    def models(self) -> list[str]:
        """The networks."""
        return list(dict.fromkeys(name for name in self.network.model.split(",") if name))

    @property
    def ratios(self) -> list[float]:
        """The budgets, increasing."""
        return several(str(self.preserve_ratio), self.targets)

    @property
    def each(self) -> int:
        """Strategies that are tried under each budget of each network."""
        return self.episodes // (len(self.models) * len(self.ratios))

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        words = ["learn", self.network.model, self.data.data, *self.limits.words]
        name = "-".join([*words, self.preserve_ratio, f"seed{self.seed}"])
        return self.run_dir or Path("runs") / safe_name(name)


@dataclass(frozen=True)
class ParetoConfig(Composed):
    """Sweeps budgets: accuracy against MACs, parameters and latency.

    Finds the smallest network that loses no more than is allowed.
    """

    command = "amc.pareto"

    preserve_ratio: str = "0.2:0.9"
    """Parts of the multiply-accumulates (MACs), or of another --objective: a range (0.2:0.9), or a
    list (0.3,0.5,0.7)."""
    targets: int = 8
    """Budgets in a range, evenly spaced."""
    max_drop: float | None = None
    """Points of accuracy or of a score that may be lost; finds the smallest network that keeps to
    it, verified on images that no search has seen."""
    steps: int = 4
    """Further budgets that are tried to come closer to --max-drop."""
    policy: Path | None = None
    """A learned policy (python -m amc.learn): its folder, or .../policy. Without: it is learned
    here, first."""
    episodes: int = 200
    """Without --policy: strategies that are tried to learn one."""
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    restrictions: Restrictions = Restrictions()
    limits: ObjectiveConfig = ObjectiveConfig()
    counts: CountsConfig = CountsConfig()
    reward: RewardConfig = RewardConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    training: TrainingConfig = TrainingConfig(finetune_epochs=0)
    distill: DistillConfig = DistillConfig()
    machine: MachineConfig = MachineConfig()
    trust: bool = False
    """Use run folders, policies and plans of other users; they name code that runs here."""
    run_dir: Path | None = None
    """Folder of the networks; default runs/pareto-<model>-<data>-seed<seed>. The same command
    goes on with what it finds there."""
    seed: int = 0
    """The same seed on the same machine gives the same result, bit for bit."""

    def __post_init__(self) -> None:
        as_paths(self)
        refuse_zeros(self.command, self.restrictions, self.reconstruction)
        whole("seed", self.seed, 0)
        whole("episodes", self.episodes, 1)
        without_ratios(self.limits)
        check_shared(self.reward, self.reconstruction, AllocationConfig(), StagesConfig())
        _ = self.ratios  # which checks them
        whole("steps", self.steps, 0)
        check_task(self.data, self.training, StagesConfig())
        if self.max_drop is not None:
            if self.data.classifies and not 0 <= real("--max-drop", self.max_drop) <= 100:
                raise AmcError(f"--max-drop is in points, 0 to 100, got {shown(self.max_drop)}")
            below("--max-drop", self.max_drop)

    @property
    def ratios(self) -> list[float]:
        """The budgets, increasing."""
        return several(str(self.preserve_ratio), self.targets)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        words = ["pareto", self.network.model, self.data.data, *self.limits.words]
        name = "-".join([*words, f"seed{self.seed}"])
        return self.run_dir or Path("runs") / safe_name(name)

    @property
    def learning(self) -> LearnConfig:
        """How a policy for these budgets is learned, in a folder within."""
        return LearnConfig(
            self.preserve_ratio,
            self.targets,
            self.episodes,
            network=self.network,
            data=self.data,
            restrictions=self.restrictions,
            limits=self.limits,
            counts=self.counts,
            reward=self.reward,
            reconstruction=self.reconstruction,
            machine=self.machine,
            run_dir=self.folder / "policy",
            seed=self.seed,
        )


def without_ratios(limits: ObjectiveConfig) -> None:
    """Refuses one part, where there are many budgets.

    Raises:
        AmcError: --objective names it.
    """
    if limits.has_ratios:
        raise AmcError(
            f"--objective {limits.objective}: the parts are those of --preserve-ratio here; "
            f"expected --objective {','.join(limits.names)}"
        )


def several(given: str, count: int) -> list[float]:
    """The numbers of a list ``a,b,c`` or ``count`` of a range ``a:b``, increasing.

    Raises:
        AmcError: it is neither, or a number is no part of the whole.
    """
    try:
        numbers = [float(word) for word in given.replace(":", ",").split(",")]
    except ValueError:
        numbers = []
    whole("targets", count, 2 if ":" in given else 0)
    if ":" in given:
        ends = numbers if "," not in given and len(numbers) == 2 else [1.0, 0.0]
        numbers = (
            np.linspace(ends[0], ends[1], count).round(4).tolist() if ends[0] < ends[1] else []
        )
    if not numbers:
        raise AmcError(
            f"--preserve-ratio {given!r}: expected a range such as 0.3:0.7 or a list such as "
            "0.3,0.5,0.7"
        )
    for number in numbers:
        within("--preserve-ratio", number, 0, 1)
    return sorted(set(numbers))
