"""The section on sparsity: how many weights or blocks become zero, which ones, and when."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from amc.runtime.errors import AmcError
from amc.runtime.limits import below, flag, real, whole, within

Schedules = Literal["auto", "one-shot", "polynomial", "exponential", "adaptive", "multistep"]

ONE_SHOT, POLYNOMIAL, EXPONENTIAL = "one-shot", "polynomial", "exponential"
ADAPTIVE, MULTISTEP = "adaptive", "multistep"
USUAL: dict[str, Schedules] = {"magnitude": "polynomial", "normed_magnitude": "polynomial"}
USUAL |= {"rb": "exponential", "const": "one-shot", "obs": "one-shot"}
"""The schedule that `auto` stands for, by metric."""

USERS: dict[str, tuple[str, ...]] = {
    "sparsity_init": (POLYNOMIAL, EXPONENTIAL, ADAPTIVE),
    "sparsity_power": (POLYNOMIAL,),
    "sparsity_convex": (POLYNOMIAL,),
    "sparsity_patience": (ADAPTIVE,),
    "sparsity_steps": (MULTISTEP,),
    "sparsity_levels": (MULTISTEP,),
    "sparsity_target_epoch": (POLYNOMIAL, EXPONENTIAL),
    "sparsity_per_step": (POLYNOMIAL, EXPONENTIAL),
    "sparsity_freeze_epoch": (POLYNOMIAL, EXPONENTIAL, ADAPTIVE, MULTISTEP),
}
"""Settings of one schedule or some, and whose they are."""

GAIN = 0.05
"""What an adaptive schedule adds to the level at once (NNCF)."""

REACHED, FROZEN = 0.5, 0.6
"""Parts of the training after which the level is reached, and masks stay, if nothing is said."""

EXACT = 1e-9
"""Rounding errors of levels and epochs."""


@dataclass(frozen=True)
class SparsityConfig:
    """Zeros among the weights, with --target weights or blocks."""

    sparsity: float = 0.5
    """Part of the single weights or blocks that becomes zero, in [0, 1), exact to one of them. N:M
    blocks and --sparsity-levels say it themselves."""
    sparsity_init: float = 0.0
    """The part to begin with."""
    block: str = ""
    """For --target blocks: what becomes zero together, in a weight as a matrix of outputs by
    inputs: 1x4, AxB (outputs by inputs, all for a whole side), row, column, or N:M, of every M
    inputs side by side N stay (2:4)."""
    sparsity_allocation: Literal["global", "uniform", "search"] = "global"
    """Who shares the zeros out to layers: one threshold for all (global), the same part in each
    (uniform), or a search by --allocator within the whole (search)."""
    sparsity_schedule: Schedules = "auto"
    """How the level rises over the training: at once (one-shot), polynomial, exponential, adaptive
    (by 0.05 whenever it is reached), multistep. auto: polynomial for magnitudes, exponential for
    rb, one-shot for const and obs."""
    sparsity_power: float = 0.9
    """For polynomial: the power."""
    sparsity_convex: bool = False
    """For polynomial: little at first instead of much."""
    sparsity_patience: int = 1
    """For adaptive: epochs at a level before the next."""
    sparsity_steps: tuple[int, ...] = ()
    """For multistep: the epochs, from 0, at which the next level begins."""
    sparsity_levels: tuple[float, ...] = ()
    """For multistep: the levels, one more than --sparsity-steps; the last one is the target."""
    sparsity_target_epoch: float | None = None
    """For polynomial and exponential: epochs after which the level is the target; default: half of
    --finetune-epochs."""
    sparsity_freeze_epoch: float | None = None
    """Epochs after which no mask changes any more; default: six tenths of --finetune-epochs."""
    sparsity_per_step: bool = True
    """The level rises with every step of the optimiser; --no-sparsity-per-step: at the beginning
    of every epoch."""
    sparsity_rate: float | None = None
    """For rb: learning rate of the masks' logits (Adam); default: 0.001, and more where so few
    steps lead to the target that logits would not get below zero in them."""

    def __post_init__(self) -> None:
        below("--sparsity", self.sparsity, 1)
        below("--sparsity-init", self.sparsity_init, 1)
        within("--sparsity-power", self.sparsity_power, 0, float("inf"))
        if self.sparsity_rate is not None:
            within("--sparsity-rate", self.sparsity_rate, 0, float("inf"))
        whole("sparsity_patience", self.sparsity_patience, 1)
        for name in ("sparsity_target_epoch", "sparsity_freeze_epoch"):
            if (value := getattr(self, name)) is not None:
                below(flag(name), value)
        self._check_block()
        self._check_users()
        self._check_levels()
        if self.sparsity_init and self.sparsity_init > self.sparsity:
            raise AmcError(
                f"--sparsity-init {self.sparsity_init:g} is above --sparsity {self.sparsity:g}"
            )

    def _check_block(self) -> None:
        level = fixed_level(self.block)
        if level is None:
            return
        if self.sparsity not in (SparsityConfig.sparsity, level):
            raise AmcError(
                f"--block {self.block} makes {level:g} of the weights zero; --sparsity "
                f"{self.sparsity:g} does not belong beside it"
            )
        if self.sparsity_allocation != "global":
            raise AmcError(
                f"--sparsity-allocation {self.sparsity_allocation}: --block {self.block} leaves "
                "nothing to share out, every layer has the same part"
            )
        object.__setattr__(self, "sparsity", level)

    def _check_users(self) -> None:
        if self.sparsity_schedule == "auto":
            return  # which depends on the metric
        check_schedule(self, self.sparsity_schedule)

    def _check_levels(self) -> None:
        steps, levels = self.sparsity_steps, self.sparsity_levels
        for step in steps:
            whole("sparsity_steps", step, 0)
        for level in levels:
            below("--sparsity-levels", level, 1)
        if not (steps or levels or self.sparsity_schedule == MULTISTEP):
            return
        if len(levels) != len(steps) + 1:
            raise AmcError(
                f"--sparsity-levels must be one more than --sparsity-steps: got {len(levels)} "
                f"{'level' if len(levels) == 1 else 'levels'} for {len(steps)} "
                f"{'step' if len(steps) == 1 else 'steps'}"
            )
        if any(a >= b for a, b in pairwise(steps)):
            raise AmcError(f"--sparsity-steps {' '.join(map(str, steps))}: must increase")
        if any(a > b for a, b in pairwise(levels)):
            words = " ".join(f"{real('--sparsity-levels', level):g}" for level in levels)
            raise AmcError(f"--sparsity-levels {words}: must not fall")
        object.__setattr__(self, "sparsity", levels[-1])

    def schedule_for(self, metric: str, users: bool = False) -> Schedules:
        """The schedule that counts.

        Args:
            metric: which weights go.
            users: whether the training is a function of the user's, which trains at one level.
        """
        if self.sparsity_schedule != "auto":
            return self.sparsity_schedule
        return (
            "multistep"
            if self.sparsity_levels
            else "one-shot"
            if users and metric != "rb"
            else USUAL[metric]
        )

    def epochs_for(self, schedule: str, epochs: int) -> tuple[float, float]:
        """After how many epochs the level is the target, and from when on masks stay.

        Args:
            schedule: the one that counts.
            epochs: of the whole training.
        """
        if schedule == ONE_SHOT or not epochs:
            return 0.0, 0.0
        target, freeze = self.sparsity_target_epoch, self.sparsity_freeze_epoch
        if schedule in (ADAPTIVE, MULTISTEP):
            last = self.sparsity_steps[-1] if self.sparsity_steps else 0
            target = float(last if schedule == MULTISTEP else adaptive_epoch(self))
            usual = target + 1 if schedule == MULTISTEP else max(target + 1, epochs - 1)
            return target, usual if freeze is None else freeze
        reached, frozen = REACHED * epochs, FROZEN * epochs
        if not self.sparsity_per_step:  # whole epochs; of a single one nothing is before the end
            frozen = float(max(1, int(frozen))) if epochs > 1 else 0.5
            reached = float(max(0, min(int(reached), frozen - 1)))
        if target is None:
            usual = reached if freeze is None else min(reached, freeze * REACHED / FROZEN)
            target = usual if self.sparsity_per_step else float(int(usual))
        if freeze is None:
            least = target + (frozen - reached if self.sparsity_per_step else 1)
            freeze = max(frozen, least)
        return target, freeze


def adaptive_epoch(config: SparsityConfig) -> int:
    """The epoch, from 0, in which an adaptive schedule has the target at the earliest."""
    gains = math.ceil((config.sparsity - config.sparsity_init) / GAIN - EXACT)
    return max(0, gains * config.sparsity_patience - 1)


def check_schedule(config: SparsityConfig, schedule: str) -> None:
    """Refuses settings of other schedules.

    Raises:
        AmcError: the setting, and whose it is.
    """
    for name, users in USERS.items():
        if getattr(config, name) != getattr(SparsityConfig, name) and schedule not in users:
            raise AmcError(
                f"{flag(name)} belongs to --sparsity-schedule {', '.join(users)}, not to "
                f"{schedule}"
            )


def check_epochs(config: SparsityConfig, schedule: str, epochs: int) -> None:
    """Refuses a schedule that leaves no epoch of training with the masks of the target.

    Raises:
        AmcError: what is given, and what would do.
    """
    if not epochs or schedule == ONE_SHOT:
        return
    target, freeze = config.epochs_for(schedule, epochs)
    if schedule == ADAPTIVE and (target >= freeze or freeze >= epochs):
        raise AmcError(
            f"--sparsity-schedule adaptive has --sparsity {config.sparsity:g} in epoch "
            f"{target:g} at the earliest, counted from 0, and one with masks that stay has to "
            f"follow; give --finetune-epochs {target + 2:g} or more, or a higher --sparsity-init"
        )
    if target >= freeze:
        raise AmcError(
            f"--sparsity-freeze-epoch {freeze:g} must be above the epoch that reaches the target, "
            f"{target:g}: masks would be frozen below it"
        )
    if freeze >= epochs:
        raise AmcError(
            f"masks change up to epoch {freeze:g}, --finetune-epochs {epochs} end before any is "
            f"trained with masks that stay; give {math.floor(freeze) + 1} or more, or an earlier "
            f"{'--sparsity-steps' if schedule == MULTISTEP else '--sparsity-target-epoch'}"
        )


def fixed_level(block: str) -> float | None:
    """The level that a pattern fixes: 1 - N / M of N:M; None for all others.

    Raises:
        AmcError: there is no such pattern.
    """
    if block in ("", "row", "column"):
        return None
    if re.fullmatch(r"([1-9]\d{0,6}|all)x([1-9]\d{0,6}|all)", block):
        return None
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", block)
    if found is None:
        raise AmcError(
            f"--block {block!r} is unknown; allowed: AxB such as 1x4 or allx2, row, column, N:M "
            "such as 2:4"
        )
    few, many = map(int, found.groups())
    if not 0 < few < many:
        raise AmcError(f"--block {block}: of every M weights N stay, 0 < N < M, such as 2:4")
    return 1 - few / many
