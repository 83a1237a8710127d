"""What a strategy may cost: the target, in the unit of the objective, and the least that is."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import NO_LAYERS, ChannelGraph
from amc.objectives.objective import Costs, Objective, limit_of
from amc.objectives.options import allowed_counts, step
from amc.objectives.sizes import macs
from amc.runtime.errors import AmcError, InfeasibleBudgetError


@dataclass(frozen=True)
class Limit:
    """A part of the network's cost, and the counts that groups may take; see `Budget`."""

    graph: ChannelGraph
    preserve_ratio: float
    tolerance: float = 0.02
    multiple: int = 1
    min_ratio: float = 0.1
    note: str = ""
    objective: Objective | None = None

    def __post_init__(self) -> None:
        ratio = self.preserve_ratio
        if not (math.isfinite(ratio) and 0 < ratio <= 1):
            raise AmcError(f"--preserve-ratio must be in (0, 1], got {ratio:g}")
        if self.multiple < 1:
            raise AmcError(f"--channel-multiple must be 1 or more, got {self.multiple}")
        if not self.graph.decisions:
            reasons = "; ".join(self.graph.causes) or NO_LAYERS
            raise InfeasibleBudgetError(f"nothing in this network can be pruned: {reasons}")
        if (least := self.cost(self._least)) > self.target:
            raise InfeasibleBudgetError(self._nearest_feasible(least))

    def _nearest_feasible(self, least: float) -> str:
        """What is out of reach, and the nearest that is not."""
        why = f"(every group at {self.min_ratio:g} of its channels or more)"
        if not self._measure.parts:
            nearest = math.ceil(1e4 * least / self.original) / 1e4
            what = "" if self._measure.name == "macs" else f" of the {self._measure.unit}"
            return (
                f"--preserve-ratio {self.preserve_ratio:g}{what} is below what is reachable: the "
                f"nearest feasible value is {nearest:g} {why}"
            )
        asked, feasible = [], []
        full = self._sizes
        for one, ratio in self._measure.parts:
            fewest = one(self._least)
            nearest = ratio
            if fewest > limit_of(one, full, ratio):
                nearest = math.ceil(1e4 * fewest / one(full)) / 1e4
            asked.append(f"{one.name}={ratio:g}")
            feasible.append(f"{one.name}={nearest:g}")
        return (
            f"--objective {','.join(asked)} is below what is reachable: the nearest feasible "
            f"values are {','.join(feasible)} {why}"
        )

    @cached_property
    def _measure(self) -> Objective:
        return self.objective or macs(self.graph)

    @property
    def name(self) -> str:
        """Name of what costs."""
        return self._measure.name

    @property
    def unit(self) -> str:
        """Of the costs, for people."""
        return self._measure.unit

    def cost(self, counts: IntArray) -> Any:
        """What one strategy costs, for kept channels [T]: a Python number."""
        return self._measure(counts)

    def cost_of(self, counts: IntArray) -> Costs:
        """What many strategies cost, [R, T] -> [R]."""
        return self._measure.of(counts)

    @cached_property
    def original(self) -> Any:
        """The cost of the whole network."""
        return self.cost(self._sizes)

    @cached_property
    def target(self) -> Any:
        """The cost that may not be exceeded."""
        if self._measure.parts:
            return 1.0
        return limit_of(self._measure, self._sizes, self.preserve_ratio)

    @property
    def limits(self) -> tuple[tuple[Objective, float], ...]:
        """All objectives, and the part of each that may stay."""
        return self._measure.parts or ((self._measure, self.preserve_ratio),)

    @cached_property
    def options(self) -> tuple[IntArray, ...]:
        """Allowed counts of every decision, increasing."""
        return tuple(
            allowed_counts(g, self.multiple, self.min_ratio) for g in self.graph.decisions
        )

    @cached_property
    def _least(self) -> IntArray:
        return np.array([o[0] for o in self.options])

    @cached_property
    def _most(self) -> IntArray:
        return np.array([o[-1] for o in self.options])

    @cached_property
    def _sizes(self) -> IntArray:
        return np.array([g.size for g in self.graph.decisions])

    @cached_property
    def _equal(self) -> FloatArray:
        return np.ones(len(self.options))

    @cached_property
    def _steps(self) -> IntArray:
        return np.array([step(g, self.multiple) for g in self.graph.decisions])
