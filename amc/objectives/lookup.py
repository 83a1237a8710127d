"""Bilinear interpolation in many small grids at once, at whole numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amc.graph.arrays import FloatArray, IntArray

Grid = tuple[Sequence[int], Sequence[int], FloatArray]
"""Whole numbers x and y, increasing, and values [x, y]."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """L grids, laid out one behind the other.

    Attributes:
        place: of every whole number on every axis, its position between two grid lines.
        x_start, y_start: [L, 1] where each grid's axes begin in `place`.
        x_most, y_most: [L, 1] last number of each axis.
        values: of all grids.
        start, columns: [L, 1] where each grid begins in `values`, and how long its rows are.
    """

    place: FloatArray
    x_start: IntArray
    y_start: IntArray
    x_most: IntArray
    y_most: IntArray
    values: FloatArray
    start: IntArray
    columns: IntArray

    @classmethod
    def of(cls, grids: Sequence[Grid], block: int = 1) -> "Lookup":
        """The lookup of these grids.

        Args:
            grids: beyond whose ends the nearest value holds.
            block: numbers between two lines of a grid count as the next multiple of this.
        """
        axes = [positions(axis, block) for x, y, _ in grids for axis in (x, y)]
        begins = _begins([len(axis) for axis in axes])
        most = _column([len(axis) - 1 for axis in axes])
        columns = [len(y) for _, y, _ in grids]
        return cls(
            np.concatenate(axes), begins[::2], begins[1::2], most[::2], most[1::2],
            np.concatenate([values.ravel() for *_, values in grids]),
            _begins([values.size for *_, values in grids]), _column(columns),
        )  # fmt: skip

    def __call__(self, x: IntArray, y: IntArray) -> FloatArray:
        """Sum over all grids, for [L, R] numbers -> [R]."""
        row = self.place[self.x_start + np.minimum(x, self.x_most)]
        column = self.place[self.y_start + np.minimum(y, self.y_most)]
        i, j = row.astype(np.int64), column.astype(np.int64)
        u, v = row - i, column - j
        here = self.start + i * self.columns + j
        right = (v > 0).astype(np.int64)  # no further than the last line
        below = (u > 0) * self.columns
        first = (1 - v) * self.values[here] + v * self.values[here + right]
        second = (1 - v) * self.values[here + below] + v * self.values[here + below + right]
        found: FloatArray = ((1 - u) * first + u * second).sum(axis=0)
        return found


def positions(axis: Sequence[int], block: int = 1) -> FloatArray:
    """Where the numbers 0 to ``axis[-1]`` lie between the lines of an axis, from 0 up.

    Args:
        axis: increasing.
        block: a number between two lines is taken as the next multiple of this, or as the next
            line if that comes first.
    """
    lines = np.array(axis, dtype=np.int64)
    numbers = np.arange(lines[-1] + 1)
    following = lines[np.searchsorted(lines, numbers)]
    taken = np.minimum(-(-numbers // block) * block, following)
    found: FloatArray = np.interp(taken, lines, np.arange(len(lines), dtype=np.float64))
    return found


def _column(values: Sequence[int]) -> IntArray:
    return np.array(values, dtype=np.int64)[:, None]


def _begins(lengths: Sequence[int]) -> IntArray:
    return _column(np.cumsum([0, *lengths[:-1]]).tolist())
