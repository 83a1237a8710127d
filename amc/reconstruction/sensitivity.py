"""How much every group minds being cut: reconstruction errors, from statistics alone.

For a group that keeps k channels, the sum over its readers of ``||Y - X_K W||^2 / ||Y||^2``: K is
the selector's choice, W refitted by least squares, and inputs outside of the group stay. Every
group is cut alone; how errors add up on their way through the network is not seen here.

One Cholesky factorisation X'X = LL' of a reader, its columns in the order in which channels leave,
last to leave first, gives all counts at once: row i of ``L^-1 X'Y`` holds what column i explains
beyond the columns before it.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from amc.calibration.columns import group_columns
from amc.calibration.least_squares import factorise
from amc.calibration.statistics import LayerStats
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import tensors
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor


def sensitivity(
    compressor: Compressor, budget: Budget, on_group: Callable[[], object] = lambda: None
) -> dict[str, FloatArray]:
    """Relative reconstruction error of every group at each of its allowed counts.

    Exact where the selector's choices are nested; Lasso's are only at its rungs, and a set between
    them is taken to be the channels that stay at most counts.

    Args:
        compressor: statistics, and which channels stay.
        budget: the allowed counts.
        on_group: called after each group.

    Returns:
        Group name -> errors aligned with its `Budget.options`. A group none of whose readers has
        statistics gets the part of it that goes: exact for inputs that are independent and alike.
    """
    errors, state = {}, tensors(compressor.model)
    for group, options in zip(budget.graph.decisions, budget.options, strict=True):
        readers = [name for name in group.readers if name in compressor.stats]
        if not readers:
            errors[group.name] = 1 - options / group.size
        else:
            order, total = lasting(compressor, group, options), np.zeros(len(options))
            for name in readers:
                layer, stats = compressor.graph.layer(name), compressor.stats[name]
                columns = group_columns(layer, group, state[layer.weight])
                total += _errors(stats, columns[torch.from_numpy(order)])[options]
            errors[group.name] = total
        on_group()
    return errors


def lasting(compressor: Compressor, group: ChannelGroup, options: IntArray) -> IntArray:
    """The channels of a group, those that stay at most counts first."""
    stays = np.zeros(group.size, dtype=np.int64)
    for count in options:
        stays[compressor.keep(group.name, int(count))] += 1
    return np.argsort(-stays, kind="stable")


def _errors(stats: LayerStats, columns: Tensor) -> FloatArray:
    """Relative errors of one reader with the first 0, 1, ... C channels, [C + 1].

    Args:
        stats: of the reader, D columns.
        columns: the rows of its weights that belong to each channel, in order, [C, m].
    """
    others = torch.ones(stats.xx.shape[1], dtype=torch.bool)
    others[columns.flatten()] = False
    order = torch.cat([others.nonzero().flatten(), columns.flatten()]).to(stats.xx.device)
    factor, _ = factorise(stats.xx[:, order][:, :, order])
    parts = torch.linalg.solve_triangular(factor, stats.xy[:, order], upper=False)
    explained = torch.cat([parts.new_zeros(1), (parts**2).sum((0, 2)).cumsum(0)])
    channels, width = columns.shape
    at = torch.arange(channels + 1, device=order.device) * width + len(order) - columns.numel()
    energy = max(stats.energy, torch.finfo(torch.float64).tiny)
    left: FloatArray = ((stats.yy.sum() - explained[at]) / energy).clamp(min=0).cpu().numpy()
    return left
