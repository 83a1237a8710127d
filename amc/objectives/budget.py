"""The exact two-sided budget: which channel counts a group may still take.

Costs are monotone functions of integer channel counts on the coupled, rounded network. At every
step the allowed counts are exactly those from which the walk can still end inside
``[(1 - tolerance) target, target]`` (`amc.objectives.reach`), or at the nearest cost below where
counts are so coarse that nothing lies inside. Of costs that are no quadratic form, such as
measured times, only bounds are known: the target is never exceeded, and the lower end is met where
steps are not coarser than the tolerance. Actions are read relative to what is left: 0.5 is the
common ratio that spends the rest of the budget evenly, or the proportions of a prior.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.plan import Strategy
from amc.objectives.limit import Limit
from amc.objectives.reach import Bounds, Reach

FREE = 1e-3
"""Part of the target that all channels together may cost which cost next to nothing."""

REMEMBERED = 10_000
"""Walks of which a budget remembers the common ratio and the allowed counts."""


@dataclass(frozen=True)
class Budget(Limit):
    """What a strategy may cost.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
        >>> budget = amc.Budget(graph, 0.5)
        >>> budget.original, budget.target, budget.allows({"0": 4}), budget.allows({"0": 5})
        (12384, 6192, True, False)

    Attributes:
        graph: the channel graph.
        preserve_ratio: part of the cost that is kept, in (0, 1]; never exceeded.
        tolerance: how far below the target a strategy may end, relative to it; 1 for no limit.
        multiple: kept channels are multiples of this, or all.
        min_ratio: no group goes below this part of its channels.
        note: why this multiple, for people; empty if it was given.
        objective: what costs; None for MACs. Of several together the target is 1.
        prior: in which proportions the groups are kept where every action is 0.5, [T], above 0;
            empty for a common ratio.

    Raises:
        AmcError: an argument is out of range.
        InfeasibleBudgetError: even the smallest counts cost more than the target.
    """

    prior: tuple[float, ...] = ()

    @cached_property
    def floor(self) -> Any:
        """The cost that no walk ends below: of the tolerance, or the nearest there is."""
        return self._wanted_floor if self.nearest is None else self.nearest

    @cached_property
    def nearest(self) -> int | None:
        """The highest cost that a strategy below the tolerance has, where none has more."""
        return self._reach(self._wanted_floor).nearest()

    @property
    def shortfall(self) -> str:
        """That no strategy lies within the tolerance, for people; empty where one does."""
        if self.nearest is None:
            return ""
        return (
            f"channels go together so coarsely that no strategy has {1 - self.tolerance:.0%} to "
            f"100% of the target; all have the nearest below, {self.nearest / self.target:.1%} "
            f"of it ({self.nearest / self.original:.4g} of the {self.unit})"
        )

    @property
    def _wanted_floor(self) -> Any:
        wanted = (1 - self.tolerance) * self.target
        return wanted if self._measure.form is None else math.ceil(wanted)

    def _reach(self, floor: Any) -> Reach | Bounds:
        if self._measure.form is None:
            return Bounds(self._measure, self.options, floor, self.target)
        return Reach(self._measure.form, self.options, floor, self.target)

    def allowed(self, decided: Sequence[int]) -> IntArray:
        """Positions in `options` that the next group may take, increasing.

        Those from which some strategy between `floor` and `target` can be reached.
        """
        key = tuple(decided)
        if key not in self._allowed:
            if len(self._allowed) >= REMEMBERED:
                self._allowed.clear()
            self._allowed[key] = np.flatnonzero(self._reached.reachable(decided))
        return self._allowed[key]

    def range(self, decided: Sequence[int]) -> tuple[int, int]:
        """Positions in `options` of the fewest and most channels that the next group may take."""
        allowed = self.allowed(decided)
        return int(allowed[0]), int(allowed[-1])

    @cached_property
    def _allowed(self) -> dict[tuple[int, ...], IntArray]:
        return {}

    @cached_property
    def _reached(self) -> Reach | Bounds:
        return self._reach(self.floor)

    def even(self, decided: Sequence[int]) -> int:
        """Position in `options` of the next group when all that are left take a common ratio.

        The largest ratio whose rounded counts stay within the target; what rounding leaves over
        is spent by the groups that follow.
        """
        return self._next(decided, self.even_ratio(decided) * self._equal)

    def proportional(self, shares: FloatArray) -> IntArray:
        """Counts [T] in these proportions [T], above 0, that use the budget up.

        As `even`, one group after the other, with the largest factor for all that are left.
        """
        decided: list[int] = []
        for options in self.options:
            at = self._next(decided, self._factor(decided, shares) * shares)
            decided.append(int(options[at]))
        return self.complete(decided)

    def _next(self, decided: Sequence[int], ratios: FloatArray) -> int:
        """Position of the allowed count of the next group that is nearest to its ratio of [T]."""
        return self._nearest(decided, self.rounded(ratios[None])[0, len(decided)])

    def _nearest(self, decided: Sequence[int], wanted: float) -> int:
        """Position of the allowed count of the next group that is nearest to the wanted one."""
        allowed = self.allowed(decided)
        return int(allowed[np.abs(self.options[len(decided)][allowed] - wanted).argmin()])

    def _knots(self, decided: Sequence[int]) -> FloatArray:
        """The counts that actions of 0, 0.5 and 1 stand for."""
        allowed, options = self.allowed(decided), self.options[len(decided)]
        return options[[allowed[0], self.middle(decided), allowed[-1]]].astype(float)

    def middle(self, decided: Sequence[int]) -> int:
        """Position in `options` that an action of 0.5 stands for: of the prior, else `even`."""
        if not self.prior:
            return self.even(decided)
        shares = np.array(self.prior)
        return self._next(decided, self._factor(decided, shares) * shares)

    def even_ratio(self, decided: Sequence[int] = ()) -> float:
        """The largest common ratio for the groups that are left that stays within the target."""
        key = tuple(decided)
        if key not in self._even_ratios:  # asked for by state, action and suggestion alike
            if len(self._even_ratios) >= REMEMBERED:
                self._even_ratios.clear()
            self._even_ratios[key] = self._factor(decided, self._equal)
        return self._even_ratios[key]

    @cached_property
    def _even_ratios(self) -> dict[tuple[int, ...], float]:
        return {}

    @cached_property
    def exact_ratio(self) -> float:
        """The largest common ratio that stays within the target when no count is rounded up."""
        return replace(self, multiple=1).even_ratio()

    def _factor(self, decided: Sequence[int], shares: FloatArray) -> float:
        """The largest factor of the shares of the groups that are left within the target."""
        low, high = 0.0, float(1 / shares.min())
        for _ in range(3 if high == 1 else 4):  # 32 candidates at a time: exact to 1 / 32768
            factors = np.linspace(low, high, 33)
            counts = self.rounded(factors[:, None] * shares)
            counts[:, : len(decided)] = decided
            fits = np.flatnonzero(self.cost_of(counts) <= self.target)
            last = int(fits[-1]) if len(fits) else 0
            low, high = float(factors[last]), float(factors[min(last + 1, 32)])
        return low

    def fitted(self, ratios: FloatArray) -> IntArray:
        """Allowed counts in these proportions, as large as the target permits, [R, T] -> [R, T].

        Every row is scaled by a factor of its own; a group that reaches a bound stays there.
        Without a lower end of the budget, nothing is scaled up.
        """
        low = np.zeros(len(ratios))
        high = np.ones(len(ratios)) if self.tolerance >= 1 else 1 / ratios.min(axis=1)
        for _ in range(16):
            middle = (low + high) / 2
            counts = self.rounded(ratios * middle[:, None])
            fits = self.cost_of(counts) <= self.target
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return self.rounded(ratios * low[:, None])

    def rounded(self, ratios: FloatArray) -> IntArray:
        """The allowed counts nearest to these parts of every group, [R, T] -> [R, T]."""
        wanted = ratios * self._sizes
        nearest = np.rint(wanted / self._steps) * self._steps
        nearest = np.clip(nearest, self._least, self._most // self._steps * self._steps)
        last = np.abs(self._most - wanted) < np.abs(nearest - wanted)
        return np.where(last | (nearest < self._least), self._most, nearest).astype(np.int64)

    def execute(self, decided: Sequence[int], action: float) -> tuple[int, float]:
        """Reads an action in [0, 1] as an allowed count.

        0 is the fewest channels from which the target can still be used up, 1 the most that leave
        every later group its smallest count, 0.5 an even share, or the prior's; linear in between.

        Returns:
            (kept channels, the action that stands for exactly this count).
        """
        knots = self._knots(decided)
        wanted = float(np.interp(action, (0.0, 0.5, 1.0), knots))
        count = int(self.options[len(decided)][self._nearest(decided, wanted)])
        return count, _inverse(count, knots, action)

    def actions(self, strategy: Strategy) -> list[float]:
        """The actions that lead to a strategy, or as near to it as the budget allows."""
        decided: list[int] = []
        found = []
        for group, options in zip(self.graph.decisions, self.options, strict=True):
            wanted = strategy.get(group.name, group.size)
            count, knots = int(options[self._nearest(decided, wanted)]), self._knots(decided)
            found.append(_inverse(count, knots, 0.5))
            decided.append(count)
        return found

    def complete(self, counts: Sequence[int]) -> IntArray:
        """The nearest strategy that uses the budget up: the counts themselves if they do.

        Groups are widened step by step; where that ends below, all are walked anew, each to the
        allowed count that is nearest. Of costs that are no quadratic form, channels that cost
        nothing are taken as well: those that a kernel's last block has room for, or that are not
        there at the moment of the highest memory.
        """
        widened = np.array(counts, dtype=np.int64)
        while self.cost(widened) < self.floor:
            best, cost = None, -1
            for t, options in enumerate(self.options):
                larger = options[options > widened[t]]
                if not len(larger):
                    continue
                trial = widened.copy()
                trial[t] = larger[0]
                if cost < (now := self.cost(trial)) <= self.target:
                    best, cost = trial, now
            if best is None:
                widened = self._walked(widened)
                break
            widened = best
        return widened if self._measure.form else self._filled(widened)

    def _filled(self, counts: IntArray) -> IntArray:
        """The counts with all channels that cost next to nothing, one group after the other."""
        filled, most = counts.copy(), self.cost(counts) + FREE * self.target
        for t, options in enumerate(self.options):
            larger = options[options > filled[t]]
            rows = np.tile(filled, (len(larger), 1))
            rows[:, t] = larger
            fits = larger[self.cost_of(rows) <= min(most, self.target)] if len(larger) else larger
            if len(fits):
                filled[t] = fits[-1]
        return filled

    def _walked(self, counts: IntArray) -> IntArray:
        decided: list[int] = []
        for options, count in zip(self.options, counts, strict=True):
            decided.append(int(options[self._nearest(decided, count)]))
        return np.array(decided, dtype=np.int64)

    def strategy(self, counts: Sequence[int] | IntArray) -> dict[str, int]:
        """Counts of every decision by group name."""
        return {g.name: int(k) for g, k in zip(self.graph.decisions, counts, strict=True)}

    def allows(self, strategy: Strategy) -> bool:
        """Whether a strategy stays within the target."""
        return bool(self.cost(self.graph.counts(strategy)) <= self.target)


def _inverse(count: int, knots: FloatArray, action: float) -> float:
    """The action that means ``count``; the given one where several do."""
    low, even, high = knots
    if low == high:
        return action
    if count < even:
        return float(0.5 * (count - low) / (even - low))
    if count > even:
        return float(0.5 + 0.5 * (count - even) / (high - even))
    if low == even:
        return min(action, 0.5)
    return max(action, 0.5) if even == high else 0.5
