"""One ranking of all channels of the network: the least important ones go, wherever they are.

Global ranking as in NNCF (`all_weights`) and LeGR (Chin et al. 2020, arXiv 1904.12368), with a
floor in every group (`--min-ratio`), allowed counts only, and the cost of the coupled network.
"""

from dataclasses import dataclass

import numpy as np

from amc.allocators.problem import AllocationProblem
from amc.allocators.scores import Scores
from amc.graph.arrays import FloatArray, IntArray
from amc.objectives.budget import Budget


@dataclass(frozen=True)
class Ranking:
    """Every step down that a group may take, from each of its counts to the next lower one.

    Attributes:
        budget: what a strategy may cost.
        group: position of the group, [N]; the steps of a group follow each other.
        score: mean importance of the channels that go with the step, [N]; never falls from one
            step of a group to its next.
        gone: part of the group that has gone after the step, [N]; decides between equal ones, so
            that groups that look alike shrink alike.
    """

    budget: Budget
    group: IntArray
    score: FloatArray
    gone: FloatArray

    @classmethod
    def of(cls, budget: Budget, scores: Scores) -> "Ranking":
        """The steps by the importance of every channel.

        Args:
            budget: what a strategy may cost.
            scores: comparable between groups.
        """
        groups, means, gone = list[IntArray](), list[FloatArray](), list[FloatArray]()
        for t, (group, options) in enumerate(
            zip(budget.graph.decisions, budget.options, strict=True)
        ):
            lost = np.concatenate([[0.0], np.cumsum(np.sort(scores[group.name]))])
            left = options[::-1]
            mean = np.diff(lost[group.size - left]) / -np.diff(left)
            groups.append(np.full(len(mean), t))
            means.append(np.maximum.accumulate(mean))  # sums are rounded
            gone.append(1 - left[1:] / group.size)
        return cls(budget, np.concatenate(groups), np.concatenate(means), np.concatenate(gone))

    def strategy(
        self, scale: FloatArray | None = None, shift: FloatArray | None = None
    ) -> dict[str, int]:
        """The steps of least ``scale * score + shift``, as few as bring the cost to the target.

        Args:
            scale: of every group, [T], above 0; all 1 by default.
            shift: of every group, [T]; all 0 by default.
        """
        key = self.score if scale is None else scale[self.group] * self.score
        key = key if shift is None else key + shift[self.group]
        order = self.group[np.lexsort((self.gone, key))]
        low, high = 0, len(order)  # all steps together fit, or there would be no budget
        while low < high:  # the cost falls with every step: bisection finds the first that fits
            middle = (low + high) // 2
            if self.budget.cost(self._after(order[:middle])) <= self.budget.target:
                high = middle
            else:
                low = middle + 1
        counts = self._after(order[:low])
        return self.budget.strategy(self.budget.complete(counts.tolist()))

    def _after(self, steps: IntArray) -> IntArray:
        """Counts [T] after these steps of groups, in any order."""
        options = self.budget.options
        taken = np.bincount(steps, minlength=len(options))
        return np.array([o[len(o) - 1 - n] for o, n in zip(options, taken, strict=True)])


def ranking(problem: AllocationProblem) -> dict[str, int]:
    """The channels of least importance go, one after the other, until the budget holds."""
    return Ranking.of(problem.budget, problem.scores).strategy()
