"""How much every group minds being cut: reconstruction errors, from statistics alone.

For a group that keeps k channels, the sum over its readers of ``||Y - X_K W||^2 / ||Y||^2``: K is
the selector's choice, W refitted by least squares, and inputs outside of the group stay. Every
group is cut alone; how errors add up on their way through the network is not seen here.
"""

from collections.abc import Sequence

import numpy as np
import torch

from amc.budget import Budget
from amc.compress import Compressor
from amc.graph.groups import ChannelGroup
from amc.graph.labels import FloatArray, IntArray
from amc.graph.surgery import tensors
from amc.solve.columns import as_columns, group_columns
from amc.solve.least_squares import error, solve

LADDER = 16
"""Counts per group at which the error is computed; straight lines between them are off by 1.5 % on
average over the counts of ResNet-20 on digits."""


def sensitivity(compressor: Compressor, budget: Budget) -> dict[str, FloatArray]:
    """Relative reconstruction error of every group at each of its allowed counts.

    Args:
        compressor: statistics, and which channels stay.
        budget: the allowed counts.

    Returns:
        Group name -> errors aligned with its `Budget.options`. A group none of whose readers has
        statistics gets the part of it that goes: exact for inputs that are independent and alike.
    """
    errors = {}
    for group, options in zip(budget.graph.decisions, budget.options, strict=True):
        if any(name in compressor.stats for name in group.readers):
            rungs = np.linspace(0, len(options) - 1, min(LADDER, len(options)))
            exact = options[np.rint(rungs).astype(np.int64)]
            found = _errors(compressor, group, exact)
            errors[group.name] = np.interp(options, exact, found)
        else:
            errors[group.name] = 1 - options / group.size
    return errors


def _errors(
    compressor: Compressor, group: ChannelGroup, counts: Sequence[int] | IntArray
) -> FloatArray:
    """Exact errors at these counts, summed over the readers, [K]."""
    state, total = tensors(compressor.model), np.zeros(len(counts))
    for name in (name for name in group.readers if name in compressor.stats):
        layer, stats = compressor.graph.layer(name), compressor.stats[name]
        weight = state[layer.weight]
        columns, start = group_columns(layer, group, weight), as_columns(weight, layer)
        scale = max(stats.energy, torch.finfo(torch.float64).tiny)
        for position, count in enumerate(counts):
            gone = np.ones(group.size, dtype=bool)
            gone[compressor.keep(group.name, int(count))] = False
            stays = torch.ones(start.shape[1], dtype=torch.bool)
            stays[columns[torch.from_numpy(gone)].flatten()] = False
            keep = stays.nonzero().flatten().to(weight.device)
            fitted = solve(stats, keep, start[:, keep])
            total[position] += max(error(stats, keep, fitted), 0.0) / scale
    return total
