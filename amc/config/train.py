"""Settings of ``python -m amc.train``: the command line, ``config.json`` and the documentation."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amc.config.composed import Composed, jsonable
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
from amc.config.sections.search import LEARNERS, AllocationConfig, ResourcesConfig, SearchConfig
from amc.config.sections.sparse_target import (
    check_removed,
    check_sparse,
    metric_for,
    structures_in,
    words_of_zeros,
    zeros_in,
)
from amc.config.sections.sparsity import SparsityConfig
from amc.graph.restrictions import Restrictions
from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths, safe_name
from amc.runtime.limits import below, flag, real, shown, whole, within
from amc.runtime.names import check_export

DECISIVE = (
    "network",
    "data",
    "limits",
    "counts",
    "reconstruction",
    "reward",
    "search",
    "training",
    "distill",
    "sparsity",
)
"""Sections that the outcome of a strategy, and the way of a search, depend on."""


@dataclass(frozen=True)
class TrainConfig(Composed):
    """Prunes a network: channels to a budget, by search, cut, reconstruction; weights to zero."""

    command = "amc.train"
    anew = ("time_limit", "workers", "memory", "quiet", "json", "statistics", "trust")

    preserve_ratio: float = 0.5
    """Part of the multiply-accumulates (MACs), or of another --objective, that stays, in (0, 1];
    never exceeded."""
    max_drop: float | None = None
    """Instead of a ratio: points of the score that may be lost, after training, on validation
    images that nothing else has seen; the network becomes as small as it can within that.
    --preserve-ratio is the first that is tried."""
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    restrictions: Restrictions = Restrictions()
    limits: ObjectiveConfig = ObjectiveConfig()
    counts: CountsConfig = CountsConfig()
    allocation: AllocationConfig = AllocationConfig()
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    reward: RewardConfig = RewardConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    training: TrainingConfig = TrainingConfig()
    distill: DistillConfig = DistillConfig()
    stages: StagesConfig = StagesConfig()
    sparsity: SparsityConfig = SparsityConfig()
    machine: MachineConfig = MachineConfig()
    config: Path | None = None
    """A configuration file; its kind is recognised: config.json of a run or some settings as JSON,
    NNCF's JSON, AMCT's text protobuf, PocketFlow's ratio.list or options. Flags beside it win."""
    write_config: str | None = None
    """Write the settings into a file, and end: amc:FILE, nncf:FILE, amct:FILE, pocketflow:FILE."""
    run_dir: Path | None = None
    """Folder of this run; default runs/<model>-<data>-<mode or allocator>-<ratio>-seed<seed>."""
    resume: Path | None = None
    """Folder of a run that was stopped: goes on with its settings, to the same result. Besides,
    only --time-limit, --workers, --memory, --quiet, --json, --statistics and --trust may be given.
    The folder names the code that runs: --model, --data, --task, --reward, --metric, --schedule
    and --finetune are its own."""
    export: str = ""
    """Also write the network that is left as these files, separated by commas: onnx, int8 (ONNX in
    8 bits), pt2, safetensors, state_dict; each is tried. python -m amc.export does it later."""
    statistics: bool = False
    """Also print the levels of filters, FLOPs and parameters, and of zeros: by layer, of the
    network, and of what was asked for. report.json always holds them."""
    trust: bool = False
    """Use run folders, policies and plans of other users; they name code that runs here."""
    seed: int = 0
    """The same seed on the same machine gives the same result, bit for bit."""

    def __post_init__(self) -> None:
        as_paths(self)
        within("--preserve-ratio", self.preserve_ratio, 0, 1)
        check_ratios(self.limits, self.preserve_ratio)
        self._check_drop()
        whole("seed", self.seed, 0)
        check_task(self.data, self.training, self.stages)
        check_epochs(self.training, self.stages)
        self._check_zeros()
        allocator = self.search.allocator
        object.__setattr__(self, "allocation", self.allocation.decided_by(allocator))
        check_shared(self.reward, self.reconstruction, self.allocation, self.stages)
        if self.stages.reallocate and not self.allocation.by_budget:
            raise AmcError(
                f"--reallocate needs a budget; --mode {self.allocation.mode} is given channels"
            )
        self._check_finals()
        for name in self.exports:
            check_export(name)
        if self.allocation.policy is not None and allocator not in LEARNERS:
            allowed = ", ".join(LEARNERS)
            raise AmcError(f"--policy: --allocator {allocator} learns none; allowed: {allowed}")
        if self.allocation.policy is not None and self.search.prior != "uniform":
            raise AmcError(
                f"--prior {self.search.prior}: --policy brings the prior that it was learned on"
            )

    def _check_zeros(self) -> None:
        choice, recon = self.restrictions, self.reconstruction
        recon = replace(recon, metric=metric_for(choice, recon.metric))
        object.__setattr__(self, "reconstruction", recon)
        check_removed(
            choice,
            self.sparsity,
            (self.preserve_ratio, TrainConfig.preserve_ratio),
            self.limits,
            self.counts,
            self.allocation,
            self.stages,
            self.search,
            self.reward,
        )
        check_sparse(choice, self.sparsity, recon, self.training, self.stages, self.max_drop)

    def _check_finals(self) -> None:
        if not self.search.finalist_epochs:
            return
        if not self.allocation.by_budget or self.allocation.mode == "uniform":
            mode = self.allocation.mode if self.allocation.channel_ratio is None else "uniform"
            raise AmcError(
                f"--finalist-epochs chooses between strategies; --mode {mode} gives one: leave "
                "one of the two out"
            )
        if self.stages.reallocate:
            raise AmcError(
                "--finalist-epochs chooses a strategy once, --reallocate anew in every step: "
                "leave one of the two out"
            )

    def _check_drop(self) -> None:
        if self.max_drop is None:
            return
        if self.data.classifies and not 0 < real("--max-drop", self.max_drop) <= 100:
            raise AmcError(f"--max-drop is in points, above 0 to 100, got {shown(self.max_drop)}")
        below("--max-drop", self.max_drop)
        if not self.allocation.by_budget:
            raise AmcError("--max-drop needs a budget: no --mode list or plan, no --channel-ratio")
        if self.limits.has_ratios:
            raise AmcError(
                f"--max-drop finds the parts that stay; expected --objective "
                f"{','.join(self.limits.names)}"
            )

    @property
    def zeros(self) -> str:
        """What becomes zero, weights or blocks; empty if nothing does."""
        return zeros_in(self.restrictions)

    @property
    def cuts(self) -> bool:
        """Whether channels or heads are removed."""
        return bool(structures_in(self.restrictions))

    @property
    def exports(self) -> tuple[str, ...]:
        """The formats that the network is written in, each once."""
        return tuple(dict.fromkeys(filter(None, map(str.strip, self.export.split(",")))))

    @property
    def target(self) -> float | None:
        """Part that may stay; None where channels were given instead, or several parts."""
        several = self.limits.has_ratios or self.max_drop is not None
        known = self.allocation.by_budget and self.cuts and not several
        return self.preserve_ratio if known else None

    @property
    def folder(self) -> Path:
        """Where everything goes; it need not exist."""
        if given := self.resume or self.run_dir:
            return given
        words = [self.network.model, self.data.data]
        words += self._words_of_cut() if self.cuts else []
        if self.zeros:
            words += words_of_zeros(self.zeros, self.reconstruction.of_weights, self.sparsity)
        name = safe_name("-".join([*words, f"seed{self.seed}"]))
        return Path("runs") / name

    def _words_of_cut(self) -> list[str]:
        mode: str = self.allocation.mode
        allocator, ratio = self.search.allocator, self.allocation.channel_ratio
        if mode == "auto" and allocator != "ddpg":
            mode = allocator.rpartition(":")[2]
        words = [mode, *self.limits.words]
        if ratio is not None:
            words.append(f"channels-{ratio:g}")
        elif self.max_drop is not None:
            words.append(f"drop-{self.max_drop:g}")
        elif self.target is not None:
            words.append(f"{self.preserve_ratio:g}")
        return words


@dataclass(frozen=True)
class InMemoryConfig(TrainConfig):
    """Settings of `amc.compress`, whose network and data no command line can name."""

    command = "amc.compress"


def check_epochs(training: TrainingConfig, stages: StagesConfig) -> None:
    """Refuses a delay that leaves no epoch for what comes after the cut.

    Raises:
        AmcError: both settings, and what would do.
    """
    delay, epochs = stages.schedule_delay, training.finetune_epochs
    if delay and delay >= epochs:
        raise AmcError(
            f"--schedule-delay {delay} takes all of --finetune-epochs {epochs}; give "
            f"--finetune-epochs {delay + 1} or more"
        )


def check_shared(
    reward: RewardConfig,
    reconstruction: ReconstructionConfig,
    allocation: AllocationConfig,
    stages: StagesConfig,
) -> None:
    """Refuses what makes no sense where strategies are slices of one trained network.

    Raises:
        AmcError: the setting, and what would do.
    """
    if reward.regime != "shared":
        return
    if not allocation.by_budget:
        given = f"--mode {allocation.mode}"
        given = given if allocation.channel_ratio is None else "--channel-ratio"
        raise AmcError(f"--regime shared needs a budget to train for; {given} is given channels")
    if stages.several:
        given = "--group-size" if stages.group_size else f"--schedule {stages.schedule}"
        raise AmcError(
            f"--regime shared trains before the one cut that it makes; {given} cuts in stages"
        )
    if not reconstruction.bn_adapt:
        raise AmcError(
            "--regime shared gives every slice batch-norm statistics of its own; it does not go "
            "with --no-bn-adapt"
        )


def check_ratios(limits: ObjectiveConfig, preserve_ratio: float | str) -> None:
    """Refuses two answers to how much may stay.

    Raises:
        AmcError: --objective names the parts, and --preserve-ratio another one.
    """
    if limits.has_ratios and preserve_ratio != TrainConfig.preserve_ratio:
        raise AmcError(
            f"--objective {limits.objective} names the parts that stay; "
            f"--preserve-ratio {preserve_ratio} does not belong beside it"
        )


def check_task(data: DataConfig, training: TrainingConfig, stages: StagesConfig) -> None:
    """Refuses what only classification knows, and drops in points of more than there are.

    Raises:
        AmcError: the setting, and what is allowed.
    """
    if data.classifies:
        for name in ("stop_drop", "adaptive_drop"):
            below(flag(name), getattr(stages, name), 100)
    elif training.label_smoothing:
        raise AmcError(f"--label-smoothing belongs to classification, not to --task {data.task}")


def record_settings(config: Any) -> dict[str, Any]:
    """What a record of strategies depends on: whole sections, by the names of their settings."""
    found: dict[str, Any] = {}
    for name in DECISIVE:
        if hasattr(config, name):
            found |= asdict(getattr(config, name))
    return {name: jsonable(v) for name, v in found.items()}
