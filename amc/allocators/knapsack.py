"""The counts of least summed error within the budget: a multiple-choice knapsack.

Every group takes one of its counts; the errors add up, the cost does not, because groups share
layers. Three solvers in a row: Lagrange multipliers on the cost, made linear around the strategy
of before; exchanges of channels between groups; and, where strategies are few enough to be gone
through, branch and bound, which proves the best.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from amc.allocators.by_density import by_density
from amc.allocators.problem import AllocationProblem
from amc.allocators.scores import Errors
from amc.graph.arrays import FloatArray, IntArray
from amc.objectives.budget import Budget

ROUNDS = 8
"""Times that the cost is made linear anew."""

STEPS = 4
"""Counts by which a group gives or takes at most in an exchange."""

MOVES = 128
"""Changes of one group, up and down each, of which exchanges are made."""

BRANCHES = 500_000
"""Beginnings of strategies up to which branch and bound goes on."""


Move = tuple[int, int, float]
"""A group, the count that it changes to, and what that adds to the summed error."""


def knapsack(problem: AllocationProblem) -> dict[str, int]:
    """The strategy of least summed reconstruction error that was found."""
    return least_errors(problem.budget, problem.errors)


def least_errors(budget: Budget, errors: Errors) -> dict[str, int]:
    """The counts of least summed error between the budget's floor and its target.

    The best there are where branch and bound comes to an end; at least as good as `by_density`
    everywhere.

    Args:
        budget: what a strategy may cost.
        errors: group name -> error, of any unit, at each of its `Budget.options`.
    """
    sums = Sums(budget, errors)
    found = sums.exchanged(budget.graph.counts(by_density(budget, errors)))
    for counts in sums.by_multipliers(found):
        found = min(found, sums.exchanged(counts), key=sums.total)
    proven = sums.branched(found)
    return budget.strategy(found if proven is None else proven)


@dataclass(frozen=True)
class Sums:
    """Sums of errors, and the strategies that make them small.

    Attributes:
        budget: what a strategy may cost.
        errors: of every group at each of its options.
    """

    budget: Budget
    errors: Errors

    @cached_property
    def _values(self) -> list[FloatArray]:
        names = (group.name for group in self.budget.graph.decisions)
        return [np.asarray(self.errors[name], dtype=np.float64) for name in names]

    def total(self, counts: IntArray) -> float:
        """The summed error of counts [T]."""
        places = map(np.searchsorted, self.budget.options, counts)
        return float(sum(e[p] for e, p in zip(self._values, places, strict=True)))

    def inside(self, rows: IntArray) -> np.ndarray:
        """Whether strategies [R, T] are within the budget, [R]."""
        costs = self.budget.cost_of(rows)
        within: np.ndarray = (self.budget.floor <= costs) & (costs <= self.budget.target)
        return within

    def by_multipliers(self, counts: IntArray) -> list[IntArray]:
        """Strategies of least error plus a multiple of the linear cost, one a round."""
        found = []
        for _ in range(ROUNDS):
            price = self._prices(counts)
            low, high = 0.0, 1.0
            while self._over(self._cheapest(price, high)) and high < 2.0**60:
                low, high = high, 4 * high
            for _ in range(50):
                middle = (low + high) / 2
                if self._over(self._cheapest(price, middle)):
                    low = middle
                else:
                    high = middle
            following = self._cheapest(price, high)
            if self._over(following):
                break
            found.append(self.budget.complete(following.tolist()))
            if (following == counts).all():
                break
            counts = following
        return found

    def _over(self, counts: IntArray) -> bool:
        return bool(self.budget.cost(counts) > self.budget.target)

    def _cheapest(self, price: FloatArray, multiplier: float) -> IntArray:
        """For every group the count of least error plus price, [T]."""
        rows = zip(self.budget.options, self._values, price, strict=True)
        return np.array([o[(e + multiplier * p * o).argmin()] for o, e, p in rows])

    def _prices(self, counts: IntArray) -> FloatArray:
        """What a channel of every group costs beside these counts, part of the target, [T]."""
        most, least = (np.array([o[end] for o in self.budget.options]) for end in (-1, 0))
        places = np.arange(len(counts))
        all_of, few_of = np.tile(counts, (len(counts), 1)), np.tile(counts, (len(counts), 1))
        all_of[places, places], few_of[places, places] = most, least
        saved = self.budget.cost_of(all_of) - self.budget.cost_of(few_of)
        price: FloatArray = saved / np.maximum(most - least, 1) / max(self.budget.target, 1e-12)
        return price

    def exchanged(self, counts: IntArray) -> IntArray:
        """Some groups take and others give channels, as long as the summed error falls."""
        while True:
            rows = self._neighbours(counts)
            gained = self._gained(counts, rows)
            able = np.flatnonzero(gained > 1e-12 * max(1.0, abs(self.total(counts))))
            able = able[np.argsort(-gained[able], kind="stable")]
            inside = able[self.inside(rows[able])] if len(able) else able
            if not len(inside):
                return counts
            counts = rows[inside[0]]

    def _gained(self, counts: IntArray, rows: IntArray) -> FloatArray:
        """By how much the summed errors of strategies [R, T] fall below these counts', [R]."""
        gained: FloatArray = np.zeros(len(rows))
        for t, (options, values) in enumerate(zip(self.budget.options, self._values, strict=True)):
            at = np.searchsorted(options, rows[:, t])
            gained += values[np.searchsorted(options, counts[t])] - values[at]
        return gained

    def _neighbours(self, counts: IntArray) -> IntArray:
        """Counts with one group changed, or one that takes and another that gives, [R, T]."""
        gives, takes = list[Move](), list[Move]()
        for t, (options, values) in enumerate(zip(self.budget.options, self._values, strict=True)):
            at = int(np.searchsorted(options, counts[t]))
            for place in range(max(at - STEPS, 0), min(at + 1 + STEPS, len(options))):
                change = float(values[place] - values[at])
                if place != at:
                    (takes if place > at else gives).append((t, int(options[place]), change))
        gives, takes = (sorted(some, key=lambda m: m[2])[:MOVES] for some in (gives, takes))
        single = [(move,) for move in (*gives, *takes)]
        pairs = [(g, t) for g in gives for t in takes if g[0] != t[0] and g[2] + t[2] < 0]
        rows = np.tile(counts, (len(single) + len(pairs), 1))
        for row, changes in enumerate((*single, *pairs)):
            for t, count, _ in changes:
                rows[row, t] = count
        return rows

    def branched(self, best: IntArray) -> IntArray | None:
        """The best strategy there is, by branch and bound; None where that is too long a way.

        Beginnings of strategies are followed all at once, group by group. One is given up if
        even the fewest channels of the later groups cost too much, if all of them cost too
        little, or if its error, with the least of the later groups, is that of the best so far.
        """
        options, target = self.budget.options, self.budget.target
        least, most = (np.array([o[end] for o in options]) for end in (0, -1))
        rest = np.cumsum([0.0, *(e.min() for e in self._values[::-1])])[::-1]
        rows, sums, limit = least[None], np.zeros(1), self.total(best)
        margin = 1e-12 * max(1.0, abs(limit))
        for t, (choices, values) in enumerate(zip(options, self._values, strict=True)):
            if len(rows) * len(choices) > BRANCHES:
                return None
            sums = (sums[:, None] + values).ravel()
            able = np.flatnonzero(sums + rest[t + 1] < limit - margin)
            rows, sums = rows[able // len(choices)], sums[able]
            rows[:, t] = choices[able % len(choices)]
            widest = np.where(np.arange(len(options)) > t, most, rows)
            fits = self.budget.cost_of(rows) <= target
            fits &= self.budget.cost_of(widest) >= self.budget.floor
            rows, sums = rows[fits], sums[fits]
        return rows[int(sums.argmin())] if len(rows) else best
