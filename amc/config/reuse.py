"""Settings of the commands that learn for many budgets and networks, and use what was learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from amc.config.train import Shared, TrainConfig
from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths, safe_name
from amc.runtime.limits import below, real, shown, whole, within


@dataclass(frozen=True)
class ApplyConfig(Shared):
    """Applies a learned policy to a budget and network, or a plan to another checkpoint."""

    policy: Path | None = None
    """A learned policy: the folder of a run, or .../policy."""
    plan: Path | None = None
    """Instead of a policy: plan.json of a run of the same network, or its folder."""
    preserve_ratio: float = 0.5
    """For a policy: part of the MACs that stays, in (0, 1]; never exceeded."""
    episodes: int = 0
    """Strategies that are tried beginning with the policy's; 0: its own at once."""

    finetune_epochs: int = 4
    """Passes over the training data after the cut; 0: none."""
    learning_rate: float = 0.05
    """Of fine-tuning, at its highest."""
    distill: bool = True
    """Fine-tuning also learns from the original network."""

    run_dir: Path | None = None
    """Folder of this run; default runs/<model>-<data>-<mode>-<ratio>-seed<seed>."""
    trust: bool = False
    """Use run folders, policies and plans of other users; they name code that runs here."""
    seed: int = 0
    """The same seed on the same machine gives the same result, bit for bit."""

    def __post_init__(self) -> None:
        as_paths(self)
        if (self.policy is None) == (self.plan is None):
            raise AmcError("give either --policy FOLDER or --plan FILE")
        whole("episodes", self.episodes, 0)
        _ = self.training  # which checks all the other settings

    @property
    def training(self) -> TrainConfig:
        """The run that does it."""
        mode = "plan" if self.plan else "auto" if self.episodes else "policy"
        return self.into(TrainConfig, mode=mode, episodes=max(1, self.episodes))


@dataclass(frozen=True)
class LearnConfig(Shared):
    """Learns one policy for many budgets and networks."""

    preserve_ratio: str = "0.3:0.7"
    """Parts of the multiply-accumulates (MACs) to learn for: a range (0.3:0.7), or a list
    (0.3,0.5,0.7)."""
    targets: int = 5
    """Budgets in a range, evenly spaced."""
    model: str = "resnet20"
    """One network or several, separated by commas: resnet20,plain20 or nets.py:a,nets.py:b. Of
    several, --checkpoint belongs to none."""

    episodes: int = 200
    """Strategies that are tried, shared out evenly among budgets and networks."""
    agent: Literal["ddpg", "td3", "sac"] = "ddpg"
    """What learns."""

    run_dir: Path | None = None
    """Folder of the policy; default runs/learn-<models>-<data>-<ratios>-seed<seed>. The same
    command goes on with what it finds there."""
    seed: int = 0
    """The same seed on the same machine gives the same result, bit for bit."""

    def __post_init__(self) -> None:
        as_paths(self)
        whole("seed", self.seed, 0)  # part of a name
        _ = self.training  # which checks all the other settings
        if self.checkpoint and len(self.models) > 1:
            raise AmcError(f"--checkpoint belongs to one network, --model names {self.model!r}")
        if self.each < 2:
            count = len(self.models) * len(self.ratios)
            raise AmcError(
                f"--episodes {self.episodes}: two or more for each of {count} budgets are needed; "
                f"the least is {2 * count}"
            )

    @property
    def models(self) -> list[str]:
        """The networks."""
        return list(dict.fromkeys(name for name in self.model.split(",") if name))

    @property
    def ratios(self) -> list[float]:
        """The budgets, increasing."""
        return several(str(self.preserve_ratio), self.targets)

    @property
    def each(self) -> int:
        """Strategies that are tried under each budget of each network."""
        return self.episodes // (len(self.models) * len(self.ratios))

    @property
    def training(self) -> TrainConfig:
        """A run of the first network under the lowest budget."""
        if not self.models:
            raise AmcError(f"--model {self.model!r} names no network")
        return self.into(
            TrainConfig, model=self.models[0], preserve_ratio=self.ratios[0], run_dir=self.folder
        )

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        name = f"learn-{self.model}-{self.data}-{self.preserve_ratio}-seed{self.seed}"
        return self.run_dir or Path("runs") / safe_name(name)


@dataclass(frozen=True)
class ParetoConfig(Shared):
    """Sweeps budgets: accuracy against MACs, parameters and latency.

    Finds the smallest network that loses no more than is allowed.
    """

    preserve_ratio: str = "0.2:0.9"
    """Parts of the multiply-accumulates (MACs): a range (0.2:0.9), or a list (0.3,0.5,0.7)."""
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
    finetune_epochs: int = 0
    """Passes over the training data after each cut; 0: none."""

    trust: bool = False
    """Use run folders, policies and plans of other users; they name code that runs here."""
    run_dir: Path | None = None
    """Folder of the networks; default runs/pareto-<model>-<data>-seed<seed>. The same command
    goes on with what it finds there."""
    seed: int = 0
    """The same seed on the same machine gives the same result, bit for bit."""

    def __post_init__(self) -> None:
        as_paths(self)
        whole("seed", self.seed, 0)
        _ = self.training, self.ratios  # which check all the other settings
        whole("steps", self.steps, 0)
        if self.max_drop is not None:
            if self.classifies and not 0 <= real("--max-drop", self.max_drop) <= 100:
                raise AmcError(f"--max-drop is in points, 0 to 100, got {shown(self.max_drop)}")
            below("--max-drop", self.max_drop)

    @property
    def ratios(self) -> list[float]:
        """The budgets, increasing."""
        return several(str(self.preserve_ratio), self.targets)

    @property
    def training(self) -> TrainConfig:
        """A run under the lowest of the budgets."""
        return self.into(
            TrainConfig, mode="auto", preserve_ratio=self.ratios[0], run_dir=self.folder
        )

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        name = f"pareto-{self.model}-{self.data}-seed{self.seed}"
        return self.run_dir or Path("runs") / safe_name(name)


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
