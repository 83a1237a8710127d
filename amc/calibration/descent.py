"""Least squares on the rows themselves, for layers whose X'X would be too large.

``min_W ||Y - X W||^2 + r ||W - W0||^2`` as in `amc.calibration.least_squares`, by conjugate
gradients from W0 (Hestenes and Stiefel 1952, section 10), every output by itself, scaled by the
diagonal of the problem. A step takes two products with X and nothing of the size of X'X. A few
steps find the directions in which most of the error lies and leave those of noise alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from amc.calibration.least_squares import RIDGE, SCARCE
from amc.runtime import distributed

STEPS = 50
ENOUGH = 1e-3
"""The gradient has become so small a part of what it was: on to the next layer."""

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Inputs [G, R, D] and outputs [G, R, N] of one batch after the other."""


def descend(pairs: Pairs, start: Tensor) -> Tensor:
    """Weights for some rows; every rank gives those of its own batches.

    Args:
        pairs: see `Pairs`.
        start: [G, D, N] weights that the layer had.

    Returns:
        [G, D, N], of the start's type.
    """
    weights = start.float().clone()
    squares = _summed(pairs, lambda x, y: x.square().sum(1)[..., None], weights[..., :1])
    rows = int(distributed.all_reduce_sum(torch.tensor(sum(x.shape[1] for x, _ in pairs))))
    ridge = squares.mean(1, keepdim=True) * (RIDGE + SCARCE * weights.shape[1] / max(1, rows))
    ridge = torch.where(ridge > 0, ridge, torch.ones_like(ridge))
    scale = squares + ridge

    slope = _summed(pairs, lambda x, y: x.mT @ (y - x @ weights), weights)  # half, downwards
    towards = slope / scale
    size = first = (slope * towards).sum(1, keepdim=True)
    for _ in range(STEPS):
        curved = _curved(pairs, towards) + ridge * towards
        bend = (towards * curved).sum(1, keepdim=True)
        step = torch.where(bend > 0, size / bend, torch.zeros_like(bend))
        weights += step * towards
        slope -= step * curved
        scaled = slope / scale
        before, size = size, (slope * scaled).sum(1, keepdim=True)
        if bool((size <= ENOUGH**2 * first).all()):
            break
        towards = scaled + size / before.clamp(min=torch.finfo(before.dtype).tiny) * towards
    return weights.to(start.dtype)


def _curved(pairs: Pairs, along: Tensor) -> Tensor:
    """``X'X P`` over the rows of all ranks, [G, D, N]."""
    return _summed(pairs, lambda x, y: x.mT @ (x @ along), along)


def _summed(pairs: Pairs, of: Callable[[Tensor, Tensor], Tensor], like: Tensor) -> Tensor:
    """Sum over the batches of all ranks; the same bits everywhere."""
    total = torch.zeros_like(like)
    for x, y in pairs:
        total += of(x.float(), y.float())
    return distributed.all_reduce_sum(total)
