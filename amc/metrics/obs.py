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

import numpy as np
import torch
from torch import Tensor

from amc.calibration.least_squares import factorise
from amc.graph.arrays import IntArray
from amc.graph.groups import ChannelGroup
from amc.metrics.metric import Evidence, Reader, Selection, ranked, readers_of
from amc.metrics.norms import l2

AT_ONCE = 128
"""Where there are more channels than this, one in so many goes at a time."""

COUPLED = 0.5
"""Channels whose partial correlation is higher do not go at once: of two copies each is useless
only while the other is there."""

PENDING = 256
"""Columns that go before the whole inverse is brought up to date: one product of matrices in place
of one pass through the memory for each channel."""


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
        if count > 1:
            least = _apart(least, [problem.coupling(least) for problem in problems])
        gone += left[least].tolist()
        left = np.delete(left, least)
        for problem in problems:
            problem.remove(least)
    return np.array(gone, dtype=np.int64)


def _apart(channels: IntArray, couplings: Sequence[Tensor]) -> IntArray:
    """The first of these channels, and each that is not `COUPLED` to one taken before."""
    bound = torch.stack([one.cpu() for one in couplings]).amax(0).numpy() > COUPLED
    taken: list[int] = []
    for i in range(len(channels)):
        if not bound[i, taken].any():
            taken.append(i)
    return channels[taken]


class _Problem:
    """The regression of one reader while channels go.

    Of the inverse only what belongs to the channels is kept up, and that lazily: it is ``base -
    P Q'``, where P and Q gain columns until there are `PENDING` of them. A score needs no more of
    it than the blocks on its diagonal, a removal no more than a few of its columns.
    """

    _base: Tensor  # [G, C m, C m]
    _p: Tensor
    _q: Tensor
    _pending: int
    _blocks: Tensor  # [G, C, m, m] of the channels that are left
    _weights: Tensor  # [G, C m, N]
    _left: Tensor  # channels, within the base

    def __init__(self, reader: Reader) -> None:
        self._stats, self._energy = reader.stats, max(reader.stats.energy, 1e-300)
        self._start = reader.weights.to(reader.stats.xx.dtype)
        self._width = reader.columns.shape[1]
        self._solve(torch.arange(reader.stats.xx.shape[1]), reader.columns.cpu())

    def added_error(self) -> Tensor:
        """What removing each channel that is left would add, of the output energy, [C]."""
        weights = self._by_channel(self._weights)
        if self._width == 1:
            added = weights.square().sum(3, keepdim=True)[:, self._left] / self._blocks
        else:
            added = torch.linalg.solve(self._blocks, (weights @ weights.mT)[:, self._left])
        total: Tensor = added.diagonal(dim1=2, dim2=3).sum((0, 2))
        return total / self._energy

    def coupling(self, channels: IntArray) -> Tensor:
        """How far some channels that are left do each other's work, 0 to 1, [c, c]."""
        flat, done = self._entries(self._left[torch.from_numpy(channels)]), self._pending
        rows = self._base[:, flat][:, :, flat]
        rows = rows - self._p[:, flat, :done] @ self._q[:, flat, :done].mT
        between = rows.reshape(len(rows), len(channels), self._width, len(channels), -1)
        size = torch.linalg.vector_norm(between, dim=(2, 4))
        own = size.diagonal(dim1=1, dim2=2).sqrt()
        found: Tensor = (size / (own[:, :, None] * own[:, None])).amax(0)
        return found

    def remove(self, channels: IntArray) -> None:
        """Removes some of the channels that are left and re-solves for the others."""
        keep = torch.ones(len(self._left), dtype=torch.bool)
        keep[torch.from_numpy(channels)] = False
        gone, self._left = self._left[~keep], self._left[keep]
        if not len(self._left):
            return
        if len(self._left) <= len(self._solved) // 2:
            self._start_afresh()
        else:
            self._downdate(gone, keep)

    def _downdate(self, gone: Tensor, keep: Tensor) -> None:
        flat, done = self._entries(gone), self._pending
        along = self._base[:, :, flat] - self._p[:, :, :done] @ self._q[:, flat, :done].mT
        block = along[:, flat]
        scaled = torch.linalg.solve(block, along.mT).mT
        self._weights -= scaled @ self._weights[:, flat]
        p, q = (self._by_channel(t)[:, self._left] for t in (along, scaled))
        self._blocks = self._blocks[:, keep] - p @ q.mT
        self._pending += len(flat)
        self._p[:, :, done : self._pending], self._q[:, :, done : self._pending] = along, scaled
        if self._pending >= PENDING:
            self._settle()

    def _settle(self) -> None:
        """Applies what is pending, and drops the channels that are gone."""
        flat = self._entries(self._left)
        p, q = (t[:, flat, : self._pending] for t in (self._p, self._q))
        base = self._base[:, flat][:, :, flat].baddbmm_(p, q.mT, alpha=-1)
        self._hold(base, self._weights[:, flat], self._columns[self._left])

    def _start_afresh(self) -> None:
        """On the columns that are left: smaller, and free of rounding errors."""
        columns = self._columns[self._left]
        stay = torch.ones(len(self._alive), dtype=torch.bool)
        stay[self._solved.flatten()] = False
        stay[columns.flatten()] = True
        self._solve(self._alive[stay], (torch.cumsum(stay, 0) - 1)[columns])

    def _solve(self, alive: Tensor, columns: Tensor) -> None:
        """Inverse and weights on some columns of the layer; ``columns`` [C, m] are among them."""
        self._alive, self._solved = alive, columns
        every, own = alive.to(self._start.device), columns.flatten().to(self._start.device)
        gram, moment = self._stats.xx, self._stats.xy
        if len(alive) < gram.shape[1]:
            gram, moment = gram[:, every][:, :, every], moment[:, every]
        factor, scale = factorise(gram)
        moment = moment + scale * self._start[:, every]
        weights = torch.cholesky_solve(moment, factor)[:, own]
        base = torch.cholesky_inverse(factor)
        if not torch.equal(own, torch.arange(len(every), device=own.device)):
            base = base[:, own][:, :, own]
        self._hold(base, weights, columns)
        block = self._entries(self._left).reshape(-1, self._width)
        self._blocks = base[:, block[:, :, None], block[:, None, :]]  # [G, C, m, m]

    def _hold(self, base: Tensor, weights: Tensor, columns: Tensor) -> None:
        """Goes on with the inverse [G, C m, C m] and weights [G, C m, N] of some channels."""
        self._base, self._weights, self._columns = base, weights, columns
        self._left, self._pending = torch.arange(len(columns)), 0
        most = PENDING + self._width * max(1, len(columns) // AT_ONCE)
        self._p = base.new_empty(*base.shape[:2], most)
        self._q = torch.empty_like(self._p)

    def _by_channel(self, rows: Tensor) -> Tensor:
        """[G, C m, ...] -> [G, C, m, ...]."""
        return rows.reshape(len(rows), -1, self._width, rows.shape[-1])

    def _entries(self, channels: Tensor) -> Tensor:
        """Rows of the inverse that belong to these channels."""
        rows = channels[:, None] * self._width + torch.arange(self._width)
        return rows.flatten().to(self._start.device)


def obs(evidence: Evidence, group: ChannelGroup) -> Selection:
    """Group optimal brain surgeon over all readers of the group; nested, exact for each count.

    A group whose readers have no statistics falls back to `l2`.
    """
    readers = readers_of(evidence, group)
    if not readers:
        return ranked(l2(evidence, group))
    order = elimination_order(readers)
    return lambda count: np.sort(order[len(order) - count :])
