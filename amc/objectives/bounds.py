"""Which counts leave a way into the budget, where nothing but bounds is known of the costs."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amc.graph.arrays import IntArray
from amc.objectives.objective import Objective

Bools = npt.NDArray[np.bool_]


class Bounds:
    """Answers which counts of the next group leave a way into a window of costs.

    Costs do not fall when a count grows. So a way that stays below the end of the window is left
    exactly where the later groups at their least fit; one that reaches its beginning, at most
    where the later groups at their most do.

    Args:
        objective: what counts cost.
        options: allowed counts of every group, increasing.
        floor: where the window begins.
        target: where it ends.
    """

    def __init__(
        self, objective: Objective, options: Sequence[IntArray], floor: float, target: float
    ) -> None:
        self._objective, self._options = objective, options
        self._floor, self._target = floor, target
        self._least = np.array([o[0] for o in options])
        self._most = np.array([o[-1] for o in options])

    def reachable(self, decided: Sequence[int]) -> Bools:
        """For every count of the next group, whether a way is left; for one at least.

        Where steps are so coarse that every count misses the window, the largest that fits.
        """
        own, t = self._options[len(decided)], len(decided)
        rows = np.concatenate([np.tile(ends, (len(own), 1)) for ends in (self._least, self._most)])
        rows[:, :t], rows[:, t] = decided, np.tile(own, 2)
        lowest, highest = self._objective.of(rows).reshape(2, -1)
        fits = lowest <= self._target
        inside: Bools = fits & (highest >= self._floor)
        if not inside.any():
            inside[max(int(fits.sum()) - 1, 0)] = True
        return inside

    def nearest(self) -> None:
        """None: whether a strategy lies in the window cannot be told from bounds."""
