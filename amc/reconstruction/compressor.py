"""One strategy applied: select channels, reconstruct their readers, shrink.

`Compressor.cut` applies it on cached statistics, for the search: solutions are remembered per
layer and kept inputs, so that a strategy costs a copy of the network, look-ups and slicing. What
is kept in the end goes through `amc.reconstruction.layer_by_layer.compress`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amc.calibration.calibrate import calibrated_layers, reconstructed_layers
from amc.calibration.columns import as_columns, as_weight, input_columns
from amc.calibration.least_squares import solve
from amc.calibration.statistics import LayerStats
from amc.graph.arrays import IntArray
from amc.graph.attributes import is_attribute
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup, Layer
from amc.graph.plan import Cut, Plan, Strategy
from amc.graph.scratch_network import ScratchNetwork
from amc.graph.shrink import cut, duplicate, tensors
from amc.runtime.errors import AmcError
from amc.runtime.memory import share

MEMO_BYTES = 2**30
"""Solutions are forgotten, all at once, when they take more than this."""


Select = Callable[[ChannelGroup], Callable[[int], IntArray]]


class Memo(dict[tuple[Any, ...], Tensor]):
    """Tensors that were computed once; all are forgotten when they take more than `MEMO_BYTES`.

    Args:
        memory: bytes that all who hold memory may hold together; an eighth of it is the memo's.
    """

    def __init__(self, memory: int | None = None) -> None:
        super().__init__()
        self._memory, self._bytes = memory, 0

    def __setitem__(self, key: tuple[Any, ...], value: Tensor) -> None:
        """Remembers a tensor."""
        self._bytes += value.nbytes
        if self._bytes > share(self._memory, 1 / 8, MEMO_BYTES):
            self.clear()
            self._bytes = value.nbytes
        super().__setitem__(key, value)


class Compressor:
    """Applies strategies to one network on statistics that were collected once.

    Args:
        graph: of the model.
        model: never changed.
        stats: statistics of `calibrated_layers`, inputs and outputs of the original network.
        select: group -> number of channels -> the kept ones, increasing; see `amc.metrics`.
        memory: bytes that may be held, see `Memo`.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        model: nn.Module,
        stats: Mapping[str, LayerStats],
        select: Select,
        memory: int | None = None,
    ) -> None:
        self.graph, self.model, self.stats, self.memory = graph, model, stats, memory
        self._select = select
        self._source = {name: t.detach() for name, t in tensors(model).items()}
        wide = set(reconstructed_layers(graph)) - set(calibrated_layers(graph))
        self._fitted = [x for x in reconstructed_layers(graph) if x.name in stats or x in wide]
        self._solved = {x.weight: x for x in self._fitted if x.name in stats}
        self._holders = _holders(graph)
        self._full = graph.counts({})
        self._selections: dict[str, Callable[[int], IntArray]] = {}
        self._keeps: dict[tuple[str, int], IntArray] = {}
        self._solutions = Memo(memory)
        self._parts = Memo(memory)

    @cached_property
    def _scratch(self) -> ScratchNetwork:
        return ScratchNetwork(self.model)

    def keep(self, group: str, count: int) -> IntArray:
        """The channels of a group that stay when it keeps ``count`` of them."""
        if (group, count) not in self._keeps:
            if group not in self._selections:
                found = next(g for g in self.graph.decisions if g.name == group)
                self._selections[group] = self._select(found)
            self._keeps[group, count] = self._selections[group](count)
        return self._keeps[group, count]

    def plan(self, strategy: Strategy) -> Plan:
        """Which channels stay under a strategy.

        Raises:
            AmcError: an unknown group, one that must stay whole, or an impossible count.
        """
        groups = {group.name: group for group in self.graph.decisions}
        for name, count in strategy.items():
            if name not in groups:
                raise AmcError(f"{name!r} cannot be pruned; groups are {', '.join(groups)}")
            size, fewest = groups[name].size, min(1, groups[name].least)
            if not fewest <= count <= size:
                raise AmcError(f"{name}: expected {fewest} to {size} channels, got {count}")
        nothing = np.zeros(0, dtype=np.int64)
        return self.graph.plan(
            {name: self.keep(name, k) if k else nothing for name, k in strategy.items()}
        )

    def cut(self, strategy: Strategy) -> nn.Module:
        """A new network under a strategy, reconstructed on the cached statistics, in eval mode."""
        return duplicate(self.view(strategy))

    def view(self, strategy: Strategy) -> nn.Module:
        """The network of `cut` without a copy: valid until the next call, and not to be changed.

        Once solutions and slices are remembered this costs look-ups only.
        """
        if not strategy.keys() <= self.graph.sizes.keys():
            self.plan(strategy)  # says which name is unknown
        counts, cuts = self.graph.counts(strategy), dict[str, list[Cut]]()
        parts, lengths = dict[str, Tensor](), dict[str, int]()
        for name, holders in self._holders.items():
            if (counts[holders] == self._full[holders]).all():
                continue
            key = (name, *counts[holders].tolist())
            if key not in self._parts:
                cuts = cuts or self.plan(strategy).by_tensor
                self._parts[key] = self._scratch.part(name, self._part(name, cuts[name]))
            if is_attribute(name):
                lengths[name] = len(self._parts[key])
            else:
                parts[name] = self._parts[key]
        return self._scratch.wear(parts, lengths)

    def weights(self, plan: Plan) -> dict[str, Tensor]:
        """Solved and cut weights of every layer that loses inputs, by tensor name."""
        cuts = plan.by_tensor
        return {v.weight: self._part(v.weight, cuts[v.weight]) for v in self.changed_layers(plan)}

    def changed_layers(self, plan: Plan) -> list[Layer]:
        """The layers with statistics that lose inputs, in execution order."""
        return [v for v in self.fitted_layers(plan) if v.weight in self._solved]

    def fitted_layers(self, plan: Plan) -> list[Layer]:
        """Layers that lose inputs, also those without statistics, in execution order."""
        lost = {(one.tensor, one.dim) for one in plan.cuts}
        return [v for v in self._fitted if (v.weight, v.in_dim) in lost]

    def _part(self, tensor: str, cuts: Sequence[Cut]) -> Tensor:
        """What is left of a tensor; solved for if it is a weight that loses inputs."""
        if is_attribute(tensor):
            return torch.empty(len(cuts[0].keep))
        layer = self._solved.get(tensor)
        inputs = next((c for c in cuts if layer and c.dim == layer.in_dim), None)
        if layer is None or inputs is None:
            return cut(self._source[tensor], cuts)
        outputs = [c for c in cuts if c.dim == layer.out_dim]
        weight = self._solve(layer, inputs.keep)
        return cut(weight, outputs) if outputs else weight.clone()

    def _solve(self, layer: Layer, inputs: tuple[int, ...]) -> Tensor:
        """New weight [O, I', *kernel] for the kept inputs, all outputs."""
        key = (layer.name, *inputs)
        if key not in self._solutions:
            weight = self._source[layer.weight]
            columns = input_columns(torch.tensor(inputs), weight).flatten().to(weight.device)
            start = as_columns(weight, layer)[:, columns]
            solution = solve(self.stats[layer.name], columns, start)
            self._solutions[key] = as_weight(solution, weight)
        return self._solutions[key]


def _holders(graph: ChannelGraph) -> dict[str, IntArray]:
    """Tensors and attributes that hold prunable channels -> positions of their decisions."""
    found: dict[str, set[int]] = {}
    for position, group in enumerate(graph.decisions):
        for member in group.members:
            found.setdefault(member.tensor, set()).add(position)
    return {name: np.array(sorted(positions)) for name, positions in found.items()}
