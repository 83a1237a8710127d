"""One strategy applied: select channels, reconstruct their readers, shrink.

Two applications of the same strategy:

* `Compressor.cut` on cached statistics, for the search: solutions are remembered per layer and
  kept inputs, so that a strategy costs a copy of the network, look-ups and slicing.
* `compress`, the final one: layers in execution order, inputs from the network pruned so far,
  targets from the original (the asymmetric form of He et al. 2017), so that each layer also
  corrects the error of those before it.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from amc.errors import AmcError
from amc.graph.groups import ChannelGraph, Layer
from amc.graph.labels import IntArray
from amc.graph.surgery import cut, owners, place, shrink, tensors
from amc.metric import Evidence, Selection, Selector
from amc.plan import Plan, Strategy
from amc.solve.columns import as_columns, as_weight, input_columns
from amc.solve.least_squares import solve
from amc.solve.stats import (
    Batches,
    LayerStats,
    Outputs,
    Sampling,
    collect,
    sample_outputs,
    select_outputs,
)

MAX_COLUMNS = 8192
"""Layers with more inputs x kernel than this are cut but not reconstructed (X'X: 0.5 GB)."""

MEMO_BYTES = 2**30
"""Solutions are forgotten, all at once, when they take more than this."""

OUTPUT_BYTES = 2**30
"""Outputs of the original network that are held at a time; more layers take more passes."""


def reconstructed_layers(graph: ChannelGraph) -> tuple[Layer, ...]:
    """The readers of prunable groups whose weights can be solved for, in execution order."""
    readers = {name for group in graph.decisions for name in group.readers}
    return tuple(
        layer
        for layer in graph.layers
        if layer.name in readers
        and "transpose" not in layer.kind
        and layer.in_channels // layer.groups * _kernel(graph, layer) <= MAX_COLUMNS
    )


def _kernel(graph: ChannelGraph, layer: Layer) -> int:
    size = 1
    for extent in graph.shapes[layer.weight][2:]:
        size *= extent
    return size


class Compressor:
    """Applies strategies to one network on statistics that were collected once.

    Args:
        graph: of the model.
        model: never changed.
        stats: statistics of `reconstructed_layers`, inputs and outputs of the original network.
        selector: which channels stay.
        seed: for random selection.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        model: nn.Module,
        stats: Mapping[str, LayerStats],
        selector: Selector,
        seed: int = 0,
    ) -> None:
        self.graph, self.model, self.stats = graph, model, stats
        self._selector, self._evidence = selector, Evidence(graph, model, stats, seed)
        self._selections: dict[str, Selection] = {}
        self._keeps: dict[tuple[str, int], IntArray] = {}
        self._solutions: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._bytes = 0
        self._source = {name: t.detach() for name, t in tensors(model).items()}

    def keep(self, group: str, count: int) -> IntArray:
        """The channels of a group that stay when it keeps ``count`` of them."""
        if (group, count) not in self._keeps:
            if group not in self._selections:
                found = next(g for g in self.graph.decisions if g.name == group)
                self._selections[group] = self._selector(self._evidence, found)
            self._keeps[group, count] = self._selections[group](count)
        return self._keeps[group, count]

    def plan(self, strategy: Strategy) -> Plan:
        """Which channels stay under a strategy.

        Raises:
            AmcError: an unknown group, one that must stay whole, or an impossible count.
        """
        for name, count in strategy.items():
            size = self.graph.sizes.get(name)
            if size is None:
                raise AmcError(
                    f"{name!r} cannot be pruned; groups are {', '.join(self.graph.sizes)}"
                )
            if not 1 <= count <= size:
                raise AmcError(f"{name}: expected 1 to {size} channels, got {count}")
        return self.graph.plan({name: self.keep(name, k) for name, k in strategy.items()})

    def cut(self, strategy: Strategy) -> nn.Module:
        """A new network under a strategy, reconstructed on the cached statistics, in eval mode."""
        plan = self.plan(strategy)
        small = shrink(self.model, plan).eval()
        where = owners(small)
        for name, weight in self.weights(plan).items():
            place(where[name], weight)
        return small

    def weights(self, plan: Plan) -> dict[str, Tensor]:
        """Solved and cut weights of every layer that loses inputs, by tensor name."""
        cuts = {(c.tensor, c.dim): c for c in plan.cuts}
        found = {}
        for layer in reconstructed_layers(self.graph):
            inputs = cuts.get((layer.weight, layer.in_dim))
            if inputs is None or layer.name not in self.stats:
                continue
            weight = self._solve(layer, inputs.keep)
            outputs = cuts.get((layer.weight, layer.out_dim))
            found[layer.weight] = cut(weight, [outputs]) if outputs else weight.clone()
        return found

    def _solve(self, layer: Layer, inputs: tuple[int, ...]) -> Tensor:
        """New weight [O, I', *kernel] for the kept inputs, all outputs."""
        key = (layer.name, inputs)
        if key not in self._solutions:
            weight = self._source[layer.weight]
            stats = self.stats[layer.name]
            columns = input_columns(torch.tensor(inputs), weight).flatten().to(weight.device)
            solution = solve(stats, columns, as_columns(weight, layer)[:, columns])
            self._solutions[key] = as_weight(solution, weight)
            self._bytes += self._solutions[key].nbytes
            if self._bytes > MEMO_BYTES:
                self._solutions, self._bytes = {key: self._solutions[key]}, 0
        return self._solutions[key]


def compress(
    compressor: Compressor,
    plan: Plan,
    batches: Batches,
    sampling: Sampling,
    on_layer: Callable[[str], None] = lambda name: None,
) -> nn.Module:
    """The network under a plan, every reader solved in execution order on fresh statistics.

    Args:
        compressor: network, graph and cached statistics (the starting point of each solution).
        plan: what stays.
        batches: calibration images.
        sampling: which output positions become rows.
        on_layer: called with the name of each layer that is done.

    Returns:
        A new module of the model's class; training flags as in the original.
    """
    graph, model = compressor.graph, compressor.model
    small = shrink(model, plan)
    where, solved = owners(small), compressor.weights(plan)
    for name, weight in solved.items():
        place(where[name], weight)
    cuts = {(c.tensor, c.dim): c for c in plan.cuts}
    layers = [layer for layer in reconstructed_layers(graph) if layer.weight in solved]
    targets: Outputs = {}
    for position, layer in enumerate(layers):
        if layer.name not in targets:
            targets = sample_outputs(
                model, _fitting(layers[position:], graph, sampling, batches), batches, sampling
            )
        stats = collect(small, [layer], batches, sampling, targets)[layer.name]
        outputs = cuts.get((layer.weight, layer.out_dim))
        if outputs is not None:
            per_group = [k for k in outputs.keep if k < outputs.size // layer.groups]
            stats = select_outputs(stats, torch.tensor(per_group, device=stats.xx.device))
        weight = solved[layer.weight]
        columns = torch.arange(stats.xx.shape[1], device=stats.xx.device)
        start = as_columns(weight, layer)
        place(where[layer.weight], as_weight(solve(stats, columns, start), weight))
        on_layer(layer.name)
    return small


def _fitting(
    layers: Sequence[Layer], graph: ChannelGraph, sampling: Sampling, batches: Batches
) -> list[Layer]:
    """The first of the layers whose sampled outputs together fit `OUTPUT_BYTES`; at least one."""
    images, total = sum(len(labels) for _, labels in batches), 0
    for end, layer in enumerate(layers):
        places = layer.positions // graph.batch
        points = min(places, sampling.points * layer.calls) if sampling.points else places
        total += 4 * images * points * layer.out_channels
        if total > OUTPUT_BYTES:
            return list(layers[: max(1, end)])
    return list(layers)


def calibrate(
    graph: ChannelGraph,
    model: nn.Module,
    batches: Batches,
    sampling: Sampling,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, LayerStats]:
    """Statistics of the original network for every layer that may lose inputs.

    Raises:
        AmcError: there are no images, or a layer's inputs or outputs are not finite.
    """
    layers = reconstructed_layers(graph)
    stats = collect(model, layers, batches, sampling, on_batch=on_batch)
    for layer in layers:
        if layer.name not in stats:
            raise AmcError("calibration: the data yields no images")
        if not all(bool(t.isfinite().all()) for t in (stats[layer.name].xx, stats[layer.name].xy)):
            raise AmcError(
                f"{layer.name}: its inputs or outputs are not finite (NaN or infinity in weights "
                "or data)"
            )
    return stats
