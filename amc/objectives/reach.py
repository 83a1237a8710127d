"""Which counts leave a way into the budget: exactly these, not only those that bounds allow.

MACs, like other `Quadratic` costs, have no negative coefficients. Where no step of the later
groups is wider than the window of allowed costs, everything between their least and their most can
be hit, and two bounds decide. Coarse groups are first set together at common ratios, then tried
one by one; a way that is found so is a proof. That there is none is proven with sums: walks that
leave the later groups the same costs share what comes then, and of all sums only those are kept
that decide about some window of this width, a few hundred however many strategies there are.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amc.graph.arrays import FloatArray, IntArray
from amc.objectives.objective import Objective, Quadratic

RATIOS = 33
"""Common ratios that coarse groups are set to together."""

TRIED = 300
"""Counts that are tried one by one before all sums are formed."""

SUMMED = 20_000
"""Counts of coarse groups over which sums are formed; what takes more passes for reachable."""

REMEMBERED = 200_000
"""Sums that are kept for later questions."""

Bools = npt.NDArray[np.bool_]


class _Enough(Exception):
    """A question took more counts than it may."""


class Reach:
    """Answers which counts of the next group leave a way into a window of costs.

    Args:
        form: what counts cost.
        options: allowed counts of every group, increasing.
        floor: first cost of the window.
        target: last cost of the window.

    Attributes:
        unsure: questions that took more than `SUMMED` counts. No network is known that asks one.
    """

    def __init__(
        self, form: Quadratic, options: Sequence[IntArray], floor: int, target: int
    ) -> None:
        self._form = form
        self._fixed, self._linear, self._product = form.constant, form.linear, form.product
        self._options = [o.astype(np.float64) for o in options]
        self._least = np.array([o[0] for o in self._options])
        self._most = np.array([o[-1] for o in self._options])
        scaled = self._least + np.linspace(0, 1, RATIOS)[:, None] * (self._most - self._least)
        pairs = zip(self._options, scaled.T, strict=True)
        self._common = np.array([o[np.searchsorted(o, k)] for o, k in pairs]).T
        self._apart = np.array([np.diff(o).max(initial=0) for o in self._options])
        squares = np.array([np.diff(o * o).max(initial=0) for o in self._options])
        self._bent = squares * self._product.diagonal() / 2
        # of a batch, as the form is; a step of this width cannot skip the window
        self._low = float((floor - form.other) * form.batch)
        self._width = float((target - floor + 1) * form.batch)
        self._high = self._low + self._width - 1
        self._within: dict[tuple[int, ...], FloatArray] = {}
        self._known: dict[tuple[tuple[int, ...], bytes], FloatArray] = {}
        self._stored = self._left = self.unsure = 0

    def reachable(self, decided: Sequence[int]) -> Bools:
        """For every count of the next group, whether a way into the window is left."""
        t, counts = len(decided), np.array(decided, dtype=np.float64)
        linear = self._linear + counts @ self._product[:t]
        start = self._fixed + counts @ (self._linear[:t] + linear[:t]) / 2
        own, rest = self._options[t], tuple(range(t + 1, len(self._options)))
        low = self._low - start - own * (linear[t] + self._product[t, t] / 2 * own)
        later = linear[t + 1 :] + own[:, None] * self._product[t, t + 1 :]
        found, open_ = self._bounded(rest, later, low)
        for i in open_:
            found[i] = self._tried(rest, later[i], low[i])
        if not found.any() and self.unsure:
            found[0] = True  # what passed for reachable is not
        return found

    def nearest(self) -> int | None:
        """None where a strategy lies in the window, else the highest cost below it."""
        if self.reachable(()).any():
            return None
        self._left = SUMMED
        try:
            sums = self._fixed + self._sums(tuple(range(len(self._options))), self._linear)
        except _Enough:
            self.unsure += 1
            return int(self._form.of(self._least[None].astype(np.int64))[0])
        # exact: none lies in the window, so the largest below it was not thinned out
        return int(sums[sums <= self._high].max()) // self._form.batch + self._form.other

    def _bounded(
        self, rest: tuple[int, ...], linear: FloatArray, low: FloatArray
    ) -> tuple[Bools, IntArray]:
        """Whether counts of these groups can hit a window; and the cases where it stays open.

        Args:
            rest: the groups.
            linear: in every case, what a channel of each of them costs, [cases, groups].
            low: in every case, where the window begins, [cases].
        """
        places = list(rest)
        product, least, most = self._products(rest), self._least[places], self._most[places]

        def costs(counts: FloatArray, cases: FloatArray) -> FloatArray:  # [cases, ratios]
            found: FloatArray = cases @ counts.T + ((counts @ product) * counts).sum(axis=1) / 2
            return found

        high = low + self._width - 1
        lowest, highest = costs(np.stack([least, most]), linear).T
        found = (lowest <= high) & (highest >= low)
        open_ = np.flatnonzero(found & (lowest < low) & (highest > high))
        for common in self._common[[0, -1]], self._common[1:-1]:
            if not len(open_):
                break
            coarse = self._steps(rest, linear[open_[-1]]) > self._width
            # from there fine steps lead on, and cannot skip the window
            first, last = (np.where(coarse, common[:, places], ends) for ends in (least, most))
            begins = costs(first, linear[open_]) <= high[open_, None]
            arrives = costs(last, linear[open_]) >= low[open_, None]
            open_ = open_[~(begins & arrives).any(axis=1)]
        return found, open_

    def _products(self, rest: tuple[int, ...]) -> FloatArray:
        if rest not in self._within:
            self._within[rest] = self._product[np.ix_(rest, rest)]
        return self._within[rest]

    def _steps(self, rest: tuple[int, ...], linear: FloatArray) -> FloatArray:
        """The widest step of each of these groups, all others of them at their most."""
        places, product = list(rest), self._products(rest)
        most = self._most[places]
        slope = linear + product @ most - product.diagonal() * most
        steps: FloatArray = slope * self._apart[places] + self._bent[places]
        return steps

    def _tried(self, rest: tuple[int, ...], linear: FloatArray, low: float) -> bool:
        """Whether counts of these groups can hit the window that begins there."""
        key = (rest, linear.tobytes())
        if key not in self._known:
            self._left = TRIED
            try:
                return self._found(rest, linear, low)
            except _Enough:
                self._left = SUMMED
        try:
            sums = self._sums(rest, linear)
        except _Enough:
            self.unsure += 1
            sums = self._known[key] = np.arange(0.0, self._high + self._width, self._width)
        at = int(np.searchsorted(sums, low))
        return at < len(sums) and bool(sums[at] < low + self._width)

    def _found(self, rest: tuple[int, ...], linear: FloatArray, low: float) -> bool:
        """What leaves a way, by trying: the coarsest group first, near the share it needs."""
        found, open_ = self._bounded(rest, linear[None], np.array([low]))
        if not len(open_):
            return bool(found[0])
        at, places = int(self._steps(rest, linear).argmax()), list(rest)
        product = self._products(rest)
        ends = self._least[places], self._most[places]
        lowest, highest = (float(k @ (linear + product @ k / 2)) for k in ends)
        share = (low + self._width / 2 - lowest) / (highest - lowest)
        options = self._options[rest[at]]
        wanted = options[0] + share * (options[-1] - options[0])
        for count in options[np.abs(options - wanted).argsort(kind="stable")]:
            others, left, cost = self._set(rest, linear, at, count)
            if self._found(others, left, low - cost):
                return True
        return False

    def _set(
        self, rest: tuple[int, ...], linear: FloatArray, at: int, count: float
    ) -> tuple[tuple[int, ...], FloatArray, float]:
        """The other groups once one has this count: these, their costs, and its own."""
        self._left -= 1
        if self._left < 0:
            raise _Enough
        row = self._products(rest)[at]
        left = np.delete(linear + count * row, at)
        return rest[:at] + rest[at + 1 :], left, float(count * (linear[at] + row[at] / 2 * count))

    def _sums(self, rest: tuple[int, ...], linear: FloatArray) -> FloatArray:
        """What counts of these groups can cost, increasing, up to the end of the window.

        Thinned out: a window of this width holds one of these exactly if it holds any.
        """
        key = (rest, linear.tobytes())
        if key not in self._known:
            found = self._formed(rest, linear)
            if self._stored > REMEMBERED:
                self._known.clear()
                self._stored = 0
            self._known[key] = found
            self._stored += len(found) + 10
        return self._known[key]

    def _formed(self, rest: tuple[int, ...], linear: FloatArray) -> FloatArray:
        # a group without a choice only tells walks apart, so it goes first
        places = [at for at, t in enumerate(rest) if len(self._options[t]) == 1]
        coarse = np.flatnonzero(self._steps(rest, linear) > self._width)
        if not places and not len(coarse):
            return self._between(rest, linear)
        at = places[0] if places else int(coarse[0])
        found = []
        for count in self._options[rest[at]]:
            others, left, cost = self._set(rest, linear, at, count)
            if cost <= self._high:
                found.append(cost + self._sums(others, left))
        return self._thinned(np.sort(np.concatenate(found))) if found else np.zeros(0)

    def _between(self, rest: tuple[int, ...], linear: FloatArray) -> FloatArray:
        """Sums from the least to the most, as far apart as no window can fall between."""
        places, product = list(rest), self._products(rest)
        ends = self._least[places], self._most[places]
        low, high = (float(k @ (linear + product @ k / 2)) for k in ends)
        high = min(high, self._high)
        return np.append(np.arange(low, high, self._width), high) if low <= high else np.zeros(0)

    def _thinned(self, sums: FloatArray) -> FloatArray:
        """The first and the last sum of every cell as wide as the window."""
        sums = sums[: int(np.searchsorted(sums, self._high, side="right"))]
        cell = np.floor_divide(sums, self._width)
        new = cell[1:] != cell[:-1]
        return sums[np.append(True, new) | np.append(new, True)] if len(sums) else sums


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
