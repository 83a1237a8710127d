"""Movement: channels whose weights training moves away from zero stay (Sanh et al. 2020)."""

from amc.calibration.columns import slices
from amc.graph.arrays import FloatArray
from amc.graph.groups import ChannelGroup
from amc.metrics.members import summed, weights
from amc.metrics.metric import Evidence


def movement(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest ``-sum_t w_t g_t`` over the steps of a training, of the weights of the channel.

    The sum over rows of what writes it and columns of what reads it; below zero where training
    draws weights towards zero. Where a network is cut in stages, the training is the fine-tuning
    between them; where it is cut at once, a short one of a copy that is thrown away.
    """
    found, graph = evidence.moved, evidence.graph
    members = [one for one in weights(graph, group) if one.tensor in found]
    return summed(group.size, (slices(found[one.tensor], one).sum(1) for one in members))
