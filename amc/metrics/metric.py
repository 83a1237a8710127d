"""What a metric is: which channels of a group stay, for every number of them.

Whatever can be computed once for a group is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from amc.calibration.activations import Activations, activations_of
from amc.calibration.columns import as_columns, group_columns
from amc.calibration.gradients import mean_gradients, squared_changes
from amc.calibration.statistics import LayerStats
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import tensors
from amc.metrics.members import read_or_written, weights
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.tasks.task import CLASSIFICATION, Task
from amc.training.movement import short_training

Selection = Callable[[int], IntArray]
"""Number of channels -> the kept ones, increasing."""

Images = Sequence[tuple[Feed, Tensor]]
"""Batches of inputs and targets."""


@dataclass(frozen=True)
class Evidence:
    """What a metric may look at.

    What takes passes over the images is computed when it is first asked for, once for all groups,
    on the model's device, by all ranks together.

    Attributes:
        graph: the channel graph.
        model: the network, never changed.
        stats: layer name -> statistics, for the readers that were calibrated.
        seed: for random selection.
        images: calibration images with their targets.
        task: whose loss gradients are of.
        movement: tensor name -> ``-sum_t w_t g_t`` over the steps of the training since the
            network was last cut, entry by entry, in the shape that the tensor has in `model`
            (`amc.training.movement.Movement`); None where it was not trained.
    """

    graph: ChannelGraph
    model: nn.Module
    stats: Mapping[str, LayerStats]
    seed: int = 0
    images: Images = ()
    task: Task = CLASSIFICATION
    movement: Mapping[str, Tensor] | None = None

    @cached_property
    def gradients(self) -> Mapping[str, Tensor]:
        """Weight name -> gradient of the mean loss, float64; of all weights of prunable groups."""
        return mean_gradients(self.model, self._weights, self._labelled, self.task)

    @cached_property
    def squared_changes(self) -> Mapping[str, Tensor]:
        """Group name -> mean over images of ``s_n^2``, [size], see `amc.metrics.taylor`."""
        members = {g.name: read_or_written(self.graph, g) for g in self.graph.decisions}
        return squared_changes(self.model, members, self._labelled, self.task)

    @cached_property
    def activations(self) -> Mapping[str, Activations]:
        """Weight name -> what its layer reads, for the readers of prunable groups."""
        names = {name for group in self.graph.decisions for name in group.readers}
        layers = [layer for layer in self.graph.layers if layer.name in names]
        return activations_of(self.model, layers, self._labelled)

    @cached_property
    def moved(self) -> Mapping[str, Tensor]:
        """`movement`, or that of a short training of a copy on the images."""
        if self.movement is not None:
            return self.movement
        return short_training(self.model, self._weights, self._labelled, self.task)

    @property
    def _weights(self) -> list[str]:
        groups = self.graph.decisions
        return sorted({one.tensor for g in groups for one in weights(self.graph, g)})

    @property
    def _labelled(self) -> Images:
        if not self.images:
            raise AmcError("this metric needs images: Evidence(..., images=[(inputs, targets)])")
        return self.images


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


def ranked(score: FloatArray | Tensor) -> Selection:
    """The channels of highest score, [size]; of equal ones the first."""
    order = np.argsort(-np.asarray(score), kind="stable")
    return lambda count: np.sort(order[:count]).astype(np.int64)
