"""One network whose slices are the networks of all strategies within a band.

The channels of every group are nested: those that k of them leave are among those that k + 1 do.
So one network that was cut to the widest strategy holds the networks of all narrower ones, and one
training of it trains them all (Yu and Huang 2019, arXiv:1903.05134).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from amc.graph.arrays import IntArray
from amc.graph.attributes import is_attribute
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.graph.plan import Cut, Plan, Strategy, cuts_seen_from
from amc.graph.scratch_network import ScratchNetwork
from amc.graph.shrink import cut, duplicate, shrink, tensors
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.sensitivity import lasting


def nested(compressor: Compressor, graph: ChannelGraph, least: Mapping[str, int]) -> Compressor:
    """Applies strategies with channels that are nested, in the order in which the metric lets go.

    Args:
        compressor: statistics, and the metric's choices.
        graph: the same, with the bounds that hold from now on.
        least: group -> the fewest channels that it may keep; below, the order is of no importance.
    """

    def select(group: ChannelGroup) -> Callable[[int], IntArray]:
        counts = np.arange(max(1, least[group.name]), group.size + 1)
        order = lasting(compressor, group, counts)
        return lambda count: np.sort(order[:count])

    return Compressor(graph, compressor.model, compressor.stats, select, compressor.memory)


class SharedWeights(Compressor):
    """Applies strategies as slices of one network, whatever its weights are; nothing is solved.

    Args:
        compressor: with nested choices, see `nested`.
        network: what the plan has left of the compressor's model; not to be changed from now on.
        plan: the widest.
    """

    def __init__(self, compressor: Compressor, network: nn.Module, plan: Plan) -> None:
        def select(group: ChannelGroup) -> Callable[[int], IntArray]:
            return partial(compressor.keep, group.name)

        super().__init__(
            compressor.graph, compressor.model, compressor.stats, select, compressor.memory
        )
        self.widest, self._left = plan, plan.by_tensor
        self._shared = {name: held.detach() for name, held in tensors(network).items()}
        # Slices look as they do in the original: a grouped convolution that was cut may look like
        # a depthwise one. What the widest plan leaves whole has the shared weights.
        self._whole = duplicate(compressor.model)
        with torch.no_grad():
            for name, held in tensors(self._whole).items():
                if held.shape == self._shared[name].shape:
                    held.copy_(self._shared[name])

    @cached_property
    def _scratch(self) -> ScratchNetwork:
        return ScratchNetwork(self._whole)

    def view(self, strategy: Strategy) -> nn.Module:
        """The slice of a strategy, in eval mode; of what is not there it has all that is.

        Batch norms have the statistics of the whole. Valid until the next call, and not to be
        changed.
        """
        most = {**self.graph.sizes, **self.widest.strategy}
        asked = {name: min(count, most.get(name, count)) for name, count in strategy.items()}
        return super().view({**self.widest.strategy, **asked})

    def sliced(self, plan: Plan) -> nn.Module:
        """A new network: what a plan of the original leaves of the shared one.

        Raises:
            AmcError: the plan keeps channels that the shared network has not.
        """
        small, cuts = shrink(self._whole, plan), plan.by_tensor
        with torch.no_grad():
            for name, held in tensors(small).items():
                if name in cuts:
                    held.copy_(self._part(name, cuts[name]))
                elif name in self._left:
                    cuts_seen_from(self._left[name], ())  # says so
        return small

    def _part(self, tensor: str, cuts: Sequence[Cut]) -> Tensor:
        """What is left of a shared tensor by cuts of the original's."""
        if is_attribute(tensor):
            return torch.empty(len(cuts[0].keep))
        return cut(self._shared[tensor], cuts_seen_from(self._left.get(tensor, ()), cuts))
