"""Group optimal brain surgeon: which channels to keep, by exact backward elimination.

For one reader with ``E(W) = ||Y - X W||^2 + r ||W - W0||^2`` and Hessian ``H = X'X + r I``, the
error that removing the input columns B adds, all other weights re-solved, is

    dE(B) = tr( W_B' (H^-1_BB)^-1 W_B ),

and both the solution and the inverse follow in closed form (optimal brain surgeon, Hassibi and
Stork 1993, for a block of columns instead of one weight). Channels that several layers read are
judged by the sum over these readers, each divided by its output energy. The channel of least error
goes first, so that the selections for all counts are nested.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amc.graph.labels import IntArray
from amc.solve.least_squares import factorise
from amc.solve.stats import LayerStats

AT_ONCE = 128
"""Of more channels than this, one in so many goes at a time."""


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels.

    Attributes:
        stats: of the layer, D columns, N outputs in each of G groups.
        weights: [G, D, N] that it has.
        columns: [C, m] columns of each channel.
    """

    stats: LayerStats
    weights: Tensor
    columns: Tensor


def elimination_order(readers: Sequence[Reader]) -> IntArray:
    """All channels, the first to go first, [C].

    Args:
        readers: of the same C channels; one at least.
    """
    problems = [_Problem(reader) for reader in readers]
    left = np.arange(len(readers[0].columns))
    gone: list[int] = []
    while len(left):
        score = torch.stack([problem.added_error().cpu() for problem in problems]).sum(0)
        count = max(1, len(left) // AT_ONCE)
        least = np.argsort(score.numpy(), kind="stable")[:count]
        gone += left[least].tolist()
        left = np.delete(left, least)
        for problem in problems:
            problem.remove(least)
    return np.array(gone, dtype=np.int64)


class _Problem:
    """The regression of one reader while channels go."""

    def __init__(self, reader: Reader) -> None:
        self._stats, self._energy = reader.stats, max(reader.stats.energy, 1e-300)
        self._start = reader.weights.to(reader.stats.xx.dtype)
        self._alive = torch.arange(reader.stats.xx.shape[1])  # columns of the layer, at `_solve`
        self._columns = reader.columns.cpu()  # of the channels that are left, within `_alive`
        self._solve()

    def added_error(self) -> Tensor:
        """What removing each channel that is left would add, of the output energy, [C]."""
        columns = self._columns.to(self._inverse.device)
        block = self._inverse[:, columns[:, :, None], columns[:, None, :]]  # [G, C, m, m]
        weights = self._weights[:, columns]  # [G, C, m, N]
        added: Tensor = (weights * torch.linalg.solve(block, weights)).sum((0, 2, 3))
        return added / self._energy

    def remove(self, channels: IntArray) -> None:
        """Removes some of the channels that are left and re-solves for the others."""
        keep = torch.ones(len(self._columns), dtype=torch.bool)
        keep[torch.from_numpy(channels)] = False
        gone, self._columns = self._columns[~keep].flatten(), self._columns[keep]
        if not len(self._columns):
            return
        if len(self._columns) <= len(self._solved) // 2:
            self._compress()
        else:
            self._downdate(gone.to(self._inverse.device))

    def _downdate(self, gone: Tensor) -> None:
        along = self._inverse[:, :, gone]  # [G, D, b]
        block = along[:, gone]
        self._weights -= along @ torch.linalg.solve(block, self._weights[:, gone])
        self._inverse -= along @ torch.linalg.solve(block, along.mT)

    def _compress(self) -> None:
        """Starts afresh on the columns that are left: smaller, and free of rounding errors."""
        stay = torch.ones(len(self._alive), dtype=torch.bool)
        stay[self._solved.flatten()] = False
        stay[self._columns.flatten()] = True
        position = torch.cumsum(stay, 0) - 1
        self._alive, self._columns = self._alive[stay], position[self._columns]
        self._solve()

    def _solve(self) -> None:
        alive = self._alive.to(self._start.device)
        gram = self._stats.xx[:, alive][:, :, alive]
        factor, scale = factorise(gram)
        self._inverse = torch.cholesky_inverse(factor)
        moment = self._stats.xy[:, alive] + scale * self._start[:, alive]
        self._weights = torch.cholesky_solve(moment, factor)
        self._solved = self._columns
