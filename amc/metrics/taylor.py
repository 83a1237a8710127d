"""Gradients of the loss: how it changes, by a Taylor expansion, without a channel.

A channel that nothing reads any more is gone: setting its columns w in all layers that read it to
zero changes the loss of image n by ``-s_n`` to first order, ``s_n = sum w dL_n/dw``. That is also
the channel's value times the loss's gradient by it, summed over positions. What `taylor_signed`
and `fisher` make of s_n estimates the change of the loss; the rows of the writing layers would say
the same once more. `taylor` and `gradient` add up absolute values, entry by entry, over rows and
columns.

Gradients are those of the mean loss over the calibration images, in eval mode. Where the loss does
not depend on a group, as on a head that only training has, its scores are zero.
"""

from amc.calibration.columns import slices
from amc.graph.arrays import FloatArray
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import tensors
from amc.metrics.members import levelled, read_or_written, summed, weights
from amc.metrics.metric import Evidence


def gradient(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest ``sum |g|`` over all weights that write or read the channel."""
    found = evidence.gradients
    return levelled(
        slices(found[one.tensor].abs(), one).sum(1) for one in weights(evidence.graph, group)
    )


def taylor(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest ``sum |w g|`` over all weights that write or read the channel.

    The absolute value is inside of the sum, nothing cancels (AMCT's sensitivity; a first-order
    Taylor expansion as in Molchanov et al. 2017).
    """
    found, state = evidence.gradients, tensors(evidence.model)
    return summed(
        group.size,
        (
            slices((state[one.tensor].detach().double() * found[one.tensor]).abs(), one).sum(1)
            for one in weights(evidence.graph, group)
        ),
    )


def taylor_signed(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest ``|sum w g|`` over the columns that read the channel: how far the loss changes.

    To first order; what one layer gains and another loses cancels. Channels that no weight reads,
    such as those of a product of activations, are judged by the rows that write them.
    """
    found, state = evidence.gradients, tensors(evidence.model)
    change = summed(
        group.size,
        (
            slices(state[one.tensor].detach().double() * found[one.tensor], one).sum(1)
            for one in read_or_written(evidence.graph, group)
        ),
    )
    return abs(change)


def fisher(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest ``mean_n s_n^2 / 2``: how far the loss rises, to second order (Theis et al. 2018).

    At a minimum of the loss the first order vanishes, and the Fisher information stands for the
    second derivative. Columns and rows as for `taylor_signed`.
    """
    found: FloatArray = evidence.squared_changes[group.name].cpu().numpy() / 2
    return found
