"""What the layers that read a channel see of it: how large it is, how often it is zero."""

from collections.abc import Iterator

import torch

from amc.calibration.activations import Activations
from amc.graph.arrays import FloatArray
from amc.graph.groups import ChannelGroup
from amc.metrics.members import levelled, read, summed
from amc.metrics.metric import Evidence
from amc.metrics.norms import l2


def activation_mean(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest mean absolute value where the channel is read.

    Over all images and positions; of several readers, each divided by its mean over the channels.
    A group that no layer is seen to read falls back to `l2`.
    """
    found = [one.magnitude for one in _seen(evidence, group)]
    return levelled(found) if found else l2(evidence, group)


def apoz(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Smallest average percentage of zeros where the channel is read (Hu et al. 2016).

    The score is the part of values that are not zero, 0 to 1, the mean over the readers. Where not
    one is zero, behind SiLU for instance, it says nothing, and `activation_mean` stands in.
    """
    found = [one.zeros for one in _seen(evidence, group)]
    if not any(bool(zeros.any()) for zeros in found):
        return activation_mean(evidence, group)
    return 1 - summed(group.size, found) / len(found)


def _seen(evidence: Evidence, group: ChannelGroup) -> Iterator[Activations]:
    """What every reader sees of the group, [size] each; of several inputs a channel the mean."""
    for member in read(evidence.graph, group):
        if found := evidence.activations.get(member.tensor):
            index = torch.from_numpy(member.index).to(found.zeros.device)
            yield Activations(found.magnitude[index].mean(1), found.zeros[index].mean(1))
