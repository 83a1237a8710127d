"""How sparse a network is to be when a part of the training is over: NNCF's schedules.

A level is the part of the weights that is zero. With i the initial and t the target level, T the
epoch that reaches the target, e the epochs that are over and x = min(e / T, 1):

    one-shot      t
    polynomial    t - (t - i) (1 - x)^power, or convex: i + (t - i) x^power
    exponential   1 - (1 - i) ((1 - t) / (1 - i))^x
    multistep     the level k of those given from the epoch k - 1 of those given on
    adaptive      i, and 0.05 more whenever it was reached in as many epochs as `patience` says

Per epoch, e is a whole number, from 0, and the level of an epoch holds from its first step on; per
step, e rises with every step of the optimiser. From the epoch `freeze` on no mask changes: that is
looked at before the level of the epoch is set. Source: algorithms.md 5.7, NNCF 2.14.
"""

from bisect import bisect_right
from dataclasses import dataclass

from amc.schedules.curves import POWER, exponential, polynomial

GAIN, NEAR = 0.05, 0.03
"""What the adaptive schedule adds, and how far below its level counts as reached."""


@dataclass(frozen=True)
class Levels:
    """A schedule.

    Attributes:
        name: one-shot, polynomial, exponential, multistep or adaptive.
        target: level at the end, in [0, 1).
        initial: level to begin with.
        reaches: T, the epoch that reaches the target; 0: at once.
        freeze: epoch from which on masks stay.
        per_step: whether the level rises within an epoch; polynomial and exponential only.
        power, convex: of polynomial.
        steps, levels: of multistep: epochs, and one level more.
        patience: of adaptive.
    """

    name: str
    target: float
    initial: float = 0.0
    reaches: float = 0.0
    freeze: float = 0.0
    per_step: bool = False
    power: float = POWER
    convex: bool = False
    steps: tuple[int, ...] = ()
    levels: tuple[float, ...] = ()
    patience: int = 1

    def at(self, epochs: float) -> float:
        """The level after so many epochs; of adaptive the initial one, see `Adaptive`.

        Examples:
            >>> round(Levels("polynomial", 0.5, reaches=90).at(45), 5)
            0.23206
        """
        if not (self.per_step and self.name in ("polynomial", "exponential")):
            epochs = int(epochs)
        if self.name == "adaptive":
            return self.initial
        if self.name == "multistep":
            return self.levels[bisect_right(self.steps, epochs)]
        if self.name == "one-shot" or epochs >= self.reaches:
            return self.target
        start, final, over = 1 - self.initial, 1 - self.target, epochs / self.reaches
        if self.name == "exponential":
            return 1 - exponential(final, over, start)
        return 1 - polynomial(final, over, start, self.power, self.convex)


@dataclass
class Adaptive:
    """The level of the adaptive schedule, which waits until the one before is reached.

    Attributes:
        schedule: target, initial level, patience.
        level: now.
        reached: epochs in which it was reached, since it last rose.
    """

    schedule: Levels
    level: float = 0.0
    reached: int = 0

    def __post_init__(self) -> None:
        self.level = self.schedule.initial

    def next_epoch(self, achieved: float) -> float:
        """The level of the epoch that begins, after an achieved one."""
        if achieved >= self.level - NEAR:
            self.reached += 1
        if self.reached >= self.schedule.patience:
            self.reached, self.level = 0, min(self.level + GAIN, self.schedule.target)
        return self.level
