"""Least squares on sufficient statistics: new weights for a layer that lost inputs.

``min_W ||Y - X_K W||^2 + r ||W - W0||^2`` for the kept columns K (He et al. 2017, equation 3, the
W-step). The ridge r pulls towards the weights W0 that the layer had, so that dead or duplicate
channels leave the problem solvable and their weights alone.
"""

import torch
from torch import Tensor

from amc.calibration.statistics import LayerStats

RIDGE = 1e-6
"""Relative to the mean of the diagonal of X'X, at least."""

SCARCE = 0.01
"""Added to `RIDGE` where there are as many columns as rows, in proportion. The classifier of a
MobileNetV2 has one row per image: solved exactly it answers to their noise, with weights so large
that the first steps of training destroy the network."""


def solve(stats: LayerStats, keep: Tensor, start: Tensor) -> Tensor:
    """Weights of the kept columns.

    Args:
        stats: of the layer, G groups, D columns, N outputs.
        keep: [D'] kept columns, the same in every group.
        start: [G, D', N] weights that the layer had.

    Returns:
        [G, D', N], float64.
    """
    gram = stats.xx[:, keep][:, :, keep]
    moment = stats.xy[:, keep]
    factor, scale = factorise(gram, RIDGE + SCARCE * len(keep) / max(1, stats.rows))
    return torch.cholesky_solve(moment + scale * start.to(gram.dtype), factor)


def factorise(gram: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Cholesky factor of X'X + r I, and r.

    Args:
        gram: [G, D, D].
        ridge: r, relative to the mean of the diagonal.

    Returns:
        (factor [G, D, D], r [G, 1, 1]).
    """
    scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1) * ridge
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))[:, None, None]
    factor, failed = torch.linalg.cholesky_ex(_ridged(gram, scale))
    if bool(failed.any()):  # numerically indefinite: a hundred times the ridge always suffices
        scale = 100 * scale
        factor = torch.linalg.cholesky(_ridged(gram, scale))
    return factor, scale


def _ridged(gram: Tensor, scale: Tensor) -> Tensor:
    ridged = gram.clone()
    ridged.diagonal(dim1=1, dim2=2).add_(scale[:, :, 0])
    return ridged


def error(stats: LayerStats, keep: Tensor, weights: Tensor) -> float:
    """``||Y - X_K W||^2`` summed over outputs, from the statistics alone; weights [G, D', N]."""
    w = weights.to(stats.xx.dtype)
    gram = stats.xx[:, keep][:, :, keep]
    cross = (stats.xy[:, keep] * w).sum()
    return float(stats.yy.sum() - 2 * cross + (w * (gram @ w)).sum())
