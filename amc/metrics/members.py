"""Which slices of which tensors a metric looks at, and how they become one score per channel.

The rule of combination. A channel goes with a row of every layer that writes it, with a column of
every layer that reads it, and with entries of norms between them. What a metric finds in one
tensor is one number per channel. Metrics in units of the loss (`amc.metrics.table`) add these
numbers up as they are: their scores can be compared across groups. All others divide the numbers
of each tensor by their mean first, so that every tensor has the same say, however large its
values: their scores can be compared within the group only.
"""

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from amc.graph.arrays import FloatArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup, Member


def written(graph: ChannelGraph, group: ChannelGroup) -> list[Member]:
    """The filters of the channels: weights by their outputs, depthwise ones among them."""
    places = {(layer.weight, layer.out_dim) for layer in graph.layers}
    return [one for one in group.members if (one.tensor, one.dim) in places]


def read(graph: ChannelGraph, group: ChannelGroup) -> list[Member]:
    """What takes the channels in: weights by their inputs; a depthwise layer only passes on."""
    wide = [layer for layer in graph.layers if layer.kind != "depthwise"]
    places = {(layer.weight, layer.in_dim) for layer in wide}
    return [one for one in group.members if (one.tensor, one.dim) in places]


def weights(graph: ChannelGraph, group: ChannelGroup) -> list[Member]:
    """All weights of layers that go with the channels: `written` and `read`."""
    return written(graph, group) + read(graph, group)


def read_or_written(graph: ChannelGraph, group: ChannelGroup) -> list[Member]:
    """Weights whose zeros remove the channels: those that read them; if none does, all others."""
    return read(graph, group) or written(graph, group)


def levelled(parts: Iterable[Tensor]) -> FloatArray:
    """The sum of what several tensors say, each divided by its mean; [size] each, none negative.

    A tensor of zeros says nothing.
    """
    found = [part.double().cpu().numpy() for part in parts]
    smallest = np.finfo(float).tiny
    total: FloatArray = np.sum([one / max(float(one.mean()), smallest) for one in found], axis=0)
    return total


def summed(size: int, parts: Iterable[Tensor]) -> FloatArray:
    """The sum of what several tensors say, [size] each."""
    total = np.zeros(size)
    for part in parts:
        total += part.double().cpu().numpy()
    return total
