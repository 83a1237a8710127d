"""Lasso over channels: which to keep, for every number of them.

He et al. 2017 (equations 2 and 3) alternate two steps while the penalty rises: the beta-step, a
Lasso with the weights W fixed, where column i of the regression is what channel i contributes to
the outputs of the layers that read it,

    min_b 1/2 b'Ab - c'b + alpha |b|_1,

and the W-step, least squares with the channels fixed. Here one LARS run gives the beta-step for
all alpha, so that `Ladder` repeats the W-step after a share of the channels, not of the penalty.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf

from amc.calibration.least_squares import factorise
from amc.calibration.statistics import LayerStats
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.groups import ChannelGroup
from amc.metrics.metric import Evidence, Reader, Selection, ranked, readers_of
from amc.metrics.norms import l2

RIDGE = 1e-6
"""Added to the diagonal, relative to its mean: dead and duplicate channels stop LARS otherwise."""

RUNG = 0.85
"""Share of the channels that is left at the next W-step; 0.95 takes twice as long and lowers the
errors of ResNet-20 by 1 % at most."""

SHRINKAGE = 0.1
"""Weight r of the penalty in the W-step, ``r sum_j ||X_j||^2 ||W_j||^2`` over the columns j: those
that say the same share their weights, so that the beta-step, which cannot move weights, sees that
one of them will do.
"""


class LassoPath:
    """Solutions for every penalty.

    Args:
        gram: A, [C, C].
        moment: c, [C].

    Attributes:
        alphas: [P] penalties at the knots of the path, decreasing.
        coefficients: [C, P] solutions at the knots; linear in alpha between them.
    """

    def __init__(self, gram: FloatArray, moment: FloatArray) -> None:
        # Imported here, late: half a second, and what is wrong with a command shows earlier.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import lars_path_gram

        channels = len(moment)
        self._diagonal = np.diag(gram).copy()
        # LARS stops at absolute values: scaled to a mean diagonal of 1
        scale = max(float(np.trace(gram)) / channels, np.finfo(float).tiny)
        with warnings.catch_warnings():  # early stops are handled: `keep` always has an answer
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            alphas, _, self.coefficients = lars_path_gram(
                Xy=moment / scale,
                Gram=gram / scale + RIDGE * np.eye(channels),
                n_samples=1,
                method="lasso",
                max_iter=8 * channels,
                copy_Gram=False,
            )
        self.alphas = alphas * scale
        self._sizes = (self.coefficients != 0).sum(axis=0)

    def keep(self, count: int) -> IntArray:
        """Exactly ``count`` channels, increasing.

        The support with that many channels and the smallest penalty, so with the least shrinkage.
        Where the path jumps over the count, the largest coefficients of the next larger support;
        where it never gets that far, the channels of largest contribution fill up.
        """
        exact = np.flatnonzero(self._sizes == count)
        larger = np.flatnonzero(self._sizes > count)
        knot = exact[-1] if len(exact) else larger[0] if len(larger) else -1
        score = np.abs(self.coefficients[:, knot])
        # lexicographic: coefficient first, contribution to break ties among zeros
        order = np.lexsort((-self._diagonal, -score))
        kept: IntArray = np.sort(order[:count]).astype(np.int64)
        return kept


class Ladder:
    """Selections for every count, nested at the rungs; solved only as far down as asked.

    A rung solves the readers anew on the channels that are left (W-step); one path over their
    contributions (beta-step) then gives the selections down to the next rung.

    Args:
        readers: of the same C channels; one at least.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = readers
        self._rungs = [self._rung(np.arange(len(readers[0].columns)))]

    def keep(self, count: int) -> IntArray:
        """Exactly ``count`` channels, increasing; 1 to C."""
        while count < self._rungs[-1].lowest:
            last = self._rungs[-1]
            self._rungs.append(self._rung(last.keep(last.lowest)))
        return next(rung for rung in self._rungs if rung.lowest <= count).keep(count)

    def _rung(self, left: IntArray) -> "_Rung":
        problems = [contributions(refit(reader, left)) for reader in self._readers]
        gram, moment = (np.sum(parts, axis=0) for parts in zip(*problems, strict=True))
        size = novelty(gram)
        return _Rung(left, LassoPath(gram * np.outer(size, size), moment * size))


@dataclass(frozen=True)
class _Rung:
    """The channels that are left, and the path over them."""

    channels: IntArray
    path: LassoPath

    @property
    def lowest(self) -> int:
        """The next rung's number of channels."""
        return min(len(self.channels) - 1, int(RUNG * len(self.channels)))

    def keep(self, count: int) -> IntArray:
        return self.channels[self.path.keep(count)]


def refit(reader: Reader, left: IntArray) -> Reader:
    """The W-step: without the columns of all other channels, weights solved anew.

    Args:
        reader: D columns in each of G groups; C channels.
        left: [C'] channels.

    Returns:
        The reader of C' channels, with the D' columns of these and of none.
    """
    columns = reader.columns.cpu()
    stay = torch.ones(reader.stats.xx.shape[1], dtype=torch.bool)
    stay[columns.flatten()] = False
    stay[columns[left].flatten()] = True
    keep = stay.nonzero().flatten().to(reader.stats.xx.device)
    xx, xy = reader.stats.xx[:, keep][:, :, keep], reader.stats.xy[:, keep]
    shrunk = xx.clone()
    shrunk.diagonal(dim1=1, dim2=2).mul_(1 + SHRINKAGE)
    weights = torch.cholesky_solve(xy, factorise(shrunk)[0])
    position = torch.cumsum(stay, 0) - 1
    stats = LayerStats(xx, xy, reader.stats.yy, reader.stats.rows)
    return Reader(stats, weights, position[columns[left]])


def contributions(reader: Reader) -> tuple[FloatArray, FloatArray]:
    """The Lasso problem of one reader: Gram [C, C] and moment [C] of the channels' contributions.

    Channel i contributes ``X_i W_i`` to the outputs; inputs outside of the group keep theirs, so
    the target is what they leave. Both are divided by the reader's output energy.
    """
    stats, device = reader.stats, reader.stats.xx.device
    weights, (size, width) = reader.weights, reader.columns.shape
    flat = reader.columns.flatten().to(device)
    others = torch.ones(weights.shape[1], dtype=torch.bool, device=device)
    others[flat] = False
    rows, own = stats.xx[:, flat], weights[:, flat]  # [G, C m, D], [G, C m, N]
    moment = stats.xy[:, flat] - rows[:, :, others] @ weights[:, others]
    gram = (rows[:, :, flat] * (own @ own.mT)).sum(0).reshape(size, width, size, width)
    along = (moment * own).sum((0, 2)).reshape(size, width)
    scale = max(stats.energy, torch.finfo(torch.float64).tiny)
    return (gram.sum((1, 3)) / scale).cpu().numpy(), (along.sum(1) / scale).cpu().numpy()


def novelty(gram: FloatArray) -> FloatArray:
    """What each channel contributes beyond the stronger ones, relative to the strongest, [C].

    The energies along a Cholesky factorisation that takes the channel with the largest remaining
    contribution first: a copy of another channel has nothing left. Scaled by this, the penalty of
    a channel is ``|b_i|`` over it (an adaptive Lasso, Zou 2006), in place of the unit norm of the
    weights in He et al., under which a few large redundant contributions outlive small ones that
    nothing can replace.
    """
    scale = max(float(np.diag(gram).max()), np.finfo(float).tiny)
    factor, order, rank, _ = dpstrf(gram / scale, lower=1)
    beyond = np.zeros(len(gram))
    beyond[order[:rank] - 1] = np.diag(factor)[:rank] ** 2
    return beyond


def lasso(evidence: Evidence, group: ChannelGroup) -> Selection:
    """Lasso over all readers of the group, solved anew on the way down.

    A group whose readers have no statistics falls back to `l2`.
    """
    readers = readers_of(evidence, group)
    return Ladder(readers).keep if readers else ranked(l2(evidence, group))
