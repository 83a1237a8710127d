"""Sections on how accuracy comes back: training, distillation, and cutting in stages."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from amc.graph.channel_graph import ChannelGraph
from amc.runtime.errors import AmcError
from amc.runtime.limits import below, flag, real, whole, within
from amc.runtime.names import check_name


@dataclass(frozen=True)
class TrainingConfig:
    """Training of the cut network."""

    finetune_epochs: int = 4
    """Passes over the training data after the cut; 0: none."""
    learning_rate: float | None = None
    """Highest learning rate of fine-tuning; default: 0.01 for networks with heads of attention,
    0.02 for those with depthwise layers, 0.05 for others."""
    batch_size: int = 64
    """Images per batch of training."""
    label_smoothing: float = 0.0
    """Part of every label that is shared out among all classes, in [0, 1)."""
    weight_decay: float = 5e-4
    """Weight decay of fine-tuning; norms and biases do not decay."""
    clip: float = 0.2
    """The gradient of each filter is at most this part of the filter's own norm (adaptive gradient
    clipping, Brock et al. 2021); 0: gradients are left alone."""
    ema: float = 0.0
    """The result is an average of the weights over the steps, the older ones discounted by this,
    such as 0.999; 0: the last weights."""
    mixed: bool = False
    """Train in bfloat16 where it is safe; on a GPU only."""
    finetune: str | None = None
    """Your own training instead: module:function, called with the cut network, the original, the
    data and the epochs; returns the network."""

    def __post_init__(self) -> None:
        whole("finetune_epochs", self.finetune_epochs, 0)
        whole("batch_size", self.batch_size, 1)
        if self.learning_rate is not None:
            within("--learning-rate", self.learning_rate, 0, float("inf"))
        for name, most in (
            ("weight_decay", None),
            ("clip", None),
            ("label_smoothing", 1),
            ("ema", 1),
        ):
            below(flag(name), getattr(self, name), most or float("inf"))

    def rate_for(self, graph: ChannelGraph) -> float:
        """The highest learning rate for a network.

        Depthwise layers have few weights a channel, which large steps throw off; networks with
        attention they throw off too (measured: docs/results.md).
        """
        if self.learning_rate is not None:
            return self.learning_rate
        if any(group.unit == "head" for group in graph.groups):
            return 0.01
        return 0.02 if any(layer.kind == "depthwise" for layer in graph.layers) else 0.05


@dataclass(frozen=True)
class DistillConfig:
    """What training learns from the original network."""

    distill: bool = True
    """Fine-tuning also learns from the original network."""
    temperature: float = 4.0
    """Temperature of distillation (Hinton et al. 2015)."""
    distill_weight: float = 2.0
    """Weight of distillation against the labels; with the factor temperature squared."""
    distill_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the weight of distillation goes down to zero over the training, if it does."""
    feature_weight: float = 0.0
    """Distillation also compares what the layers put out, on the channels that are left; their
    relative error is weighed with this."""

    def __post_init__(self) -> None:
        for name in ("temperature", "distill_weight"):
            within(flag(name), getattr(self, name), 0, float("inf"))
        below("--feature-weight", self.feature_weight)
        if self.feature_weight and not self.distill:
            raise AmcError("--feature-weight belongs to distillation, not to --no-distill")


USERS: dict[str, tuple[str, ...]] = {
    "schedule_init": ("linear", "agp", "exponential", "exponential-bias", "polynomial"),
    "schedule_power": ("polynomial",),
    "schedule_convex": ("polynomial",),
    "schedule_patience": ("adaptive",),
}
"""Settings of one schedule or some, and whose they are."""


@dataclass(frozen=True)
class StagesConfig:
    """Cutting in stages, with training between them."""

    group_size: int = 0
    """Cut this many groups, fine-tune, go on with the next; 0: all at once."""
    schedule: str = "one-shot"
    """Cut all groups little by little, with fine-tuning between the steps: one-shot, baseline,
    linear, agp, exponential, exponential-bias, polynomial, multistep, adaptive, or module:function
    of (final density, progress). baseline is one-shot after --schedule-delay."""
    schedule_steps: int = 4
    """Steps of a schedule that is not one-shot, baseline or multistep; of adaptive at most."""
    schedule_init: float | None = None
    """Part of its channels that every group loses in the first step; the others go from there to
    the end (NNCF: pruning_init). Default: all steps share the way from the whole network."""
    schedule_delay: int = 0
    """Epochs of --finetune-epochs before the first cut (NNCF: num_init_steps)."""
    schedule_parts: tuple[float, ...] = (0.5, 0.8)
    """For multistep: parts of the whole cut that the steps before the last have made."""
    schedule_power: float | None = None
    """For polynomial: the power; default 0.9."""
    schedule_convex: bool = False
    """For polynomial: little at first instead of much."""
    schedule_patience: int = 1
    """For adaptive: stages that every step takes before the next one goes further."""
    reallocate: bool = False
    """In every step, how much each group keeps is decided anew, on the network that training has
    left: as --mode says, within a budget that follows the schedule."""
    adaptive_drop: float = 10.0
    """For adaptive: a step goes as far as it costs at most so many points before training."""
    soft: bool = False
    """Between the stages channels are not cut but silenced: training may bring them back."""
    freeze_stage: int | None = None
    """With --soft: from this stage on channels are cut, and none comes back."""
    stage_epochs: float | None = None
    """Part of the epochs that is spent between the stages of --group-size or --schedule; the rest
    comes after the last. Default: all stages get the same."""
    stage_learning_rate: float | None = None
    """Between the stages; default: --learning-rate."""
    stop_drop: float = 0.0
    """A stage after which the validation accuracy is lower than the original's by more points than
    this is taken back, and none follows; 0: never. Scores that are no percentages: by this."""

    def __post_init__(self) -> None:
        whole("group_size", self.group_size, 0)
        whole("schedule_steps", self.schedule_steps, 1)
        below("--stop-drop", self.stop_drop)
        below("--adaptive-drop", self.adaptive_drop)
        if self.stage_epochs is not None:
            within("--stage-epochs", self.stage_epochs, 0, 1)
        if self.stage_learning_rate is not None:
            within("--stage-learning-rate", self.stage_learning_rate, 0, float("inf"))
        self._check_schedule()
        given = [real("--schedule-parts", part) for part in self.schedule_parts]
        parts = (0.0, *given, 1.0)
        if not all(a < b for a, b in pairwise(parts)):  # NaN fails the comparison
            words = " ".join(f"{part:g}" for part in given)
            raise AmcError(f"--schedule-parts {words}: must increase, between 0 and 1")
        if self.soft and self.schedule in ("one-shot", "baseline") and not self.group_size:
            raise AmcError("--soft needs stages: --schedule or --group-size")
        if self.freeze_stage is not None:
            whole("freeze_stage", self.freeze_stage, 1)
            if not self.soft:
                raise AmcError("--freeze-stage belongs to --soft: without, nothing comes back")

    def _check_schedule(self) -> None:
        check_name("schedule", self.schedule)
        whole("schedule_delay", self.schedule_delay, 0)
        whole("schedule_patience", self.schedule_patience, 1)
        if self.schedule_init is not None:
            below("--schedule-init", self.schedule_init, 1)
        if self.schedule_power is not None:
            within("--schedule-power", self.schedule_power, 0, float("inf"))
        for name, users in USERS.items():
            given = getattr(self, name) != getattr(StagesConfig, name)
            if given and self.schedule not in users:
                raise AmcError(
                    f"{flag(name)} belongs to --schedule {', '.join(users)}, not to "
                    f"{self.schedule}"
                )
        if self.schedule_delay and not self.several:
            raise AmcError(
                "--schedule-delay needs a schedule: --schedule baseline cuts all at once after it"
            )
        if self.reallocate and (self.schedule in ("one-shot", "adaptive") or self.soft):
            given = "--soft" if self.soft else f"--schedule {self.schedule}"
            raise AmcError(
                f"--reallocate needs a schedule with a known end of every step, and real cuts; "
                f"got {given}"
            )
        if self.group_size and self.schedule != "one-shot":
            raise AmcError(
                f"--group-size {self.group_size} and --schedule {self.schedule} exclude each other"
            )

    def frozen_at(self, stage: int) -> bool:
        """Whether from this stage on, numbers from 1, nothing comes back."""
        return self.freeze_stage is not None and stage >= self.freeze_stage

    @property
    def curve(self) -> dict[str, Any]:
        """The parameters of the schedule's curve that are given, see `amc.schedules.curves`."""
        if self.schedule == "multistep":
            return {"parts": self.schedule_parts}
        given = {} if self.schedule_init is None else {"start": 1 - self.schedule_init}
        if self.schedule_power is not None:
            given["power"] = self.schedule_power
        return {**given, "convex": True} if self.schedule_convex else given

    @property
    def steps(self) -> int:
        """Steps of the schedule, of adaptive at most."""
        if self.schedule == "multistep":
            return len(self.schedule_parts) + 1
        return 1 if self.schedule in ("one-shot", "baseline") else self.schedule_steps

    @property
    def several(self) -> bool:
        """Whether the network is cut in more than one stage."""
        return self.group_size > 0 or self.schedule != "one-shot"
