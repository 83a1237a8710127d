"""What an objective is: what strategies cost, many at once.

It never falls when a channel is added; that is all a budget needs to know. Objectives that are
sums of products of channel counts say so with their `Quadratic`, from which a budget proves what
can be reached (`amc.objectives.reach`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from amc.graph.arrays import FloatArray, IntArray

Costs: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""[R] numbers, whole ones where the objective counts something."""


@dataclass(frozen=True, eq=False)
class Quadratic:
    """``(a + b k + k C k / 2) // batch + other`` for kept channels k [T], whole numbers all.

    Attributes:
        constant: a.
        linear: b, [T], none negative.
        product: C, [T, T], symmetric, none negative.
        batch: what the sum is divided by, such as the samples that it counts.
        other: what no channel changes.
    """

    constant: float
    linear: FloatArray
    product: FloatArray
    batch: int = 1
    other: int = 0

    def of(self, counts: IntArray) -> IntArray:
        """Values for many strategies, [R, T] -> [R]."""
        k = counts.astype(np.float64)
        whole = self.constant + k @ self.linear + ((k @ self.product) * k).sum(axis=1) / 2
        found: IntArray = np.rint(whole).astype(np.int64) // self.batch + self.other
        return found


@dataclass(frozen=True, eq=False)
class Objective:
    """What a budget limits.

    Attributes:
        name: as ``--objective`` has it.
        unit: of a cost, for people.
        of: counts of many strategies [R, T] -> costs [R]; does not fall when a count grows.
        form: the same as a quadratic form, if it is one.
        parts: of several objectives together, each with the part of its cost that may stay.
    """

    name: str
    unit: str
    of: Callable[[IntArray], Costs]
    form: Quadratic | None = None
    parts: tuple[tuple["Objective", float], ...] = ()

    def __call__(self, counts: IntArray) -> Any:
        """The cost of one strategy, for kept channels [T]: a Python number."""
        return self.of(counts[None])[0].item()


def limit_of(objective: Objective, full: IntArray, ratio: float) -> Any:
    """The cost that is this part of the whole network's, and may not be exceeded.

    Args:
        objective: what costs.
        full: counts of the whole network, [T].
        ratio: in (0, 1]; taken as the decimal that was given.
    """
    original = objective(full)
    if objective.form is None:
        return ratio * original
    # 0.29 x 100 is 28.999... in floating point
    return math.floor(Fraction(str(ratio)) * original)


def together(parts: Sequence[tuple[Objective, float]], full: IntArray) -> Objective:
    """Several limits as one objective: the largest part of its limit that any of them takes.

    A strategy keeps to all limits exactly where this is 1 at most.

    Args:
        parts: objectives, and the part of each that may stay.
        full: counts of the whole network, [T].
    """
    # whole numbers: what costs anything at all is beyond a limit of 0, as it is beyond 1/2
    limits = [limit_of(one, full, ratio) or 0.5 for one, ratio in parts]

    def usage(counts: IntArray) -> FloatArray:
        rows = [one.of(counts) / limit for (one, _), limit in zip(parts, limits, strict=True)]
        found: FloatArray = np.max(rows, axis=0)
        return found

    name = ",".join(one.name for one, _ in parts)
    return Objective(name, "of the tightest limit", usage, parts=tuple(parts))


def at_least_one(costs: Costs) -> Costs:
    """Differences that something is divided by: a unit at least, where costs are whole numbers.

    In tiny layers a channel costs less than one MAC a sample.
    """
    least = 1 if np.issubdtype(costs.dtype, np.integer) else np.finfo(np.float64).tiny
    found: Costs = np.maximum(costs, least)
    return found
