"""Geometric median: a channel whose filters resemble all others goes first (He et al. 2019, FPGM).

What is near the geometric median of a layer's filters can be said by the others. Sorting by the
sum of distances from all other filters needs no median: ``G_i = sum_j ||F_i - F_j||_2``, as NNCF
computes it.
"""

import torch

from amc.calibration.columns import slices
from amc.graph.arrays import FloatArray
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import tensors
from amc.metrics.members import levelled, written
from amc.metrics.metric import Evidence
from amc.metrics.norms import l2


def geometric_median(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest sum of distances from the filters of all other channels.

    Filters are the rows of every layer that writes the channels. A group that no layer writes
    falls back to `l2`.
    """
    state, found = tensors(evidence.model), []
    for member in written(evidence.graph, group):
        filters = slices(state[member.tensor].detach().double(), member)  # [C, m * rest]
        # not by a product of matrices, which loses the small distances
        exact = "donot_use_mm_for_euclid_dist"
        found.append(torch.cdist(filters, filters, compute_mode=exact).sum(1))
    return levelled(found) if found else l2(evidence, group)
