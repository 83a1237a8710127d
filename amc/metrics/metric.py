"""What a metric is: which channels of a group stay, for every number of them.

Whatever can be computed once for a group is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from amc.calibration.columns import as_columns, group_columns
from amc.calibration.statistics import LayerStats
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import tensors

Selection = Callable[[int], IntArray]
"""Number of channels -> the kept ones, increasing."""


@dataclass(frozen=True)
class Evidence:
    """What a metric may look at.

    Attributes:
        graph: the channel graph.
        model: the network, never changed.
        stats: layer name -> statistics, for the readers that were calibrated.
        seed: for random selection.
    """

    graph: ChannelGraph
    model: nn.Module
    stats: Mapping[str, LayerStats]
    seed: int = 0


Metric = Callable[[Evidence, ChannelGroup], Selection | FloatArray]
"""How to choose: looks at a group once, and gives a score per channel, [size], higher stays; or,
where the best set of channels is no list of the best channels, a `Selection`."""


def selection_of(metric: Metric, evidence: Evidence, group: ChannelGroup) -> Selection:
    """Which channels of a group stay by a metric, for every number of them."""
    found = metric(evidence, group)
    return found if callable(found) else ranked(found)


def scores_of(metric: Metric, evidence: Evidence, group: ChannelGroup) -> FloatArray | None:
    """The scores of a group's channels, [size]; None for a metric that only selects."""
    found = metric(evidence, group)
    return None if callable(found) else found


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels.

    Attributes:
        stats: of the layer, D columns, N outputs in each of G groups.
        weights: [G, D, N] that it has.
        columns: [C, m] columns of each channel.
    """

    stats: LayerStats
    weights: Tensor
    columns: Tensor


def readers_of(evidence: Evidence, group: ChannelGroup) -> list[Reader]:
    """The layers that read the group and have statistics, as regressions."""
    state, readers = tensors(evidence.model), []
    for layer in (evidence.graph.layer(n) for n in group.readers if n in evidence.stats):
        weight = state[layer.weight]
        columns = group_columns(layer, group, weight)
        readers.append(Reader(evidence.stats[layer.name], as_columns(weight, layer), columns))
    return readers


def ranked(score: FloatArray) -> Selection:
    """The channels of highest score, [size]; of equal ones the first."""
    order = np.argsort(-score, kind="stable")
    return lambda count: np.sort(order[:count]).astype(np.int64)
