"""Statistics of a pruned network: of filters, three tables, text and JSON; and of zeros.

A level is the part that is gone, 1 - current / full; a preserve ratio is the part that stays. The
filter level of the whole network counts every convolution and linear layer; that of the algorithm
only the layers that can be pruned. FLOPs are two per multiply-accumulate, of convolutions and
linear layers. Source: the statistics of NNCF's filter pruning and sparsity.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from amc.graph.channel_graph import ChannelGraph


@dataclass(frozen=True)
class PrunedLayer:
    """A layer that can be pruned: the shape of its original weight, and the filters it keeps."""

    name: str
    weight_shape: tuple[int, ...]
    filters: int
    kept: int

    @property
    def level(self) -> float:
        """Part of the filters that is gone."""
        return 1 - self.kept / self.filters


@dataclass(frozen=True)
class Amount:
    """FLOPs, parameters or filters, before and after."""

    full: int
    current: int

    @property
    def level(self) -> float:
        """Part that is gone."""
        return 1 - self.current / self.full if self.full else 0.0


@dataclass(frozen=True)
class Aim:
    """What the algorithm was to reach.

    Attributes:
        measure: what the level is of: filters of layers that can be pruned, or an objective, such
            as ``macs``.
        current: level that was reached.
        target: level that was asked for; none where channels were given one by one.
    """

    measure: str
    current: float
    target: float | None


@dataclass(frozen=True)
class Statistics:
    """The three tables.

    Attributes:
        layers: that can be pruned.
        flops, params, filters: of the whole network; FLOPs of one sample.
        aims: of the algorithm.
    """

    layers: tuple[PrunedLayer, ...]
    flops: Amount
    params: Amount
    filters: Amount
    aims: tuple[Aim, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        rows = {"gflops": (self.flops, 1e9), "mparams": (self.params, 1e6)}
        model = {
            name: {"full": one.full / unit, "current": one.current / unit, "level": one.level}
            for name, (one, unit) in rows.items()
        }
        counts = {"full": self.filters.full, "current": self.filters.current}
        return {
            "layers": [
                {
                    "name": layer.name,
                    "weight_shape": list(layer.weight_shape),
                    "mask_shape": [layer.filters],
                    "level": layer.level,
                }
                for layer in self.layers
            ],
            "model": {**model, "filters": {**counts, "level": self.filters.level}},
            "algorithm": [vars(aim) for aim in self.aims],
        }


def statistics(
    graph: ChannelGraph,
    strategy: Mapping[str, int],
    aims: Sequence[Aim] = (),
    target: float | None = None,
) -> Statistics:
    """The statistics of a network under a strategy.

    Args:
        graph: of the original network.
        strategy: kept channels per group.
        aims: of the algorithm; without, it is the filters of layers that can be pruned.
        target: level of these filters that was asked for.
    """
    counts = graph.counts(strategy)
    _, outputs = graph.cost.layer_channels(counts)
    prunable, layers, full, left = {g.name for g in graph.decisions}, [], 0, 0
    for layer, slices in zip(graph.layers, outputs, strict=True):
        shape = graph.shapes[layer.weight]
        kept = int(slices) * (layer.out_channels // shape[layer.out_dim])
        full, left = full + layer.out_channels, left + kept
        if layer.out_group in prunable:
            layers.append(PrunedLayer(layer.name, shape, layer.out_channels, kept))
    if not aims:
        mine = sum(one.filters for one in layers)
        current = 1 - sum(one.kept for one in layers) / mine if mine else 0.0
        aims = (Aim("filters that can be pruned", current, target),)
    macs = (int(graph.cost.layer_macs(k).sum()) for k in (graph.counts({}), counts))
    return Statistics(
        tuple(layers),
        Amount(*(2 * number for number in macs)),
        Amount(graph.total_params, graph.cost.params(counts)),
        Amount(full, left),
        tuple(aims),
    )


def tables(found: Statistics) -> tuple[Table, Table, Table]:
    """Layers, network and algorithm; they fit 80 columns."""
    headers = ("layer", "weight's shape", "mask's shape", "filter level")
    layers = _table("Statistics by pruned layers", headers)
    for layer in found.layers:
        shape = str(list(layer.weight_shape))
        layers.add_row(layer.name, shape, f"[{layer.filters}]", f"{layer.level:.3f}")
    network = _table("Statistics of the pruned network", ("", "full", "current", "level"))
    units = (("GFLOPs", found.flops, 1e9), ("MParams", found.params, 1e6))
    for name, one, unit in units:
        network.add_row(name, *_decimals((one.full / unit, one.current / unit)), _level(one.level))
    filters = found.filters
    network.add_row("filters", str(filters.full), str(filters.current), _level(filters.level))
    algorithm = _table("Statistics of the pruning algorithm", ("level of", "current", "target"))
    for aim in found.aims:
        target = "none" if aim.target is None else _level(aim.target)
        algorithm.add_row(aim.measure, _level(aim.current), target)
    return layers, network, algorithm


def zeros_table(account: Mapping[str, Any]) -> Table:
    """Zeros layer by layer, and in all, of an account of `amc.gradual.sparsify`."""
    table = _table("Zeros", ("weight", "shape", "weights", "of all", "zeros", "level"))
    for one in account["layers"]:
        shape = "x".join(map(str, one["shape"]))
        part = f"{one['weights'] / account['weights']:.1%}"
        counts = (f"{one['weights']:,}", part, f"{one['zeros']:,}", f"{one['level']:.1%}")
        table.add_row(one["name"], shape, *counts)
    in_all = f"{account['weights']:,}", "", f"{account['zeros']:,}", f"{account['reached']:.2%}"
    table.add_row("in all", "", *in_all)
    return table


def sparsity_tables(account: Mapping[str, Any]) -> tuple[Table, Table]:
    """Network and algorithm, in the terms of sparsity; layers are in `zeros_table`."""
    network = _table("Statistics of the sparsified network", ("", "full", "zeros", "level"))
    for name, full in (("sparsified layers", "weights"), ("all parameters", "parameters")):
        number, zeros = account[full], account["zeros"]
        network.add_row(name, f"{number:,}", f"{zeros:,}", _level(zeros / number))
    algorithm = _table("Statistics of the sparsity algorithm", ("level of", "current", "target"))
    target = _level(account["target"])
    algorithm.add_row(account["units"], _level(account["reached"]), target)
    if account["learned"] is not None:
        row = f"{account['units']} that training has put out by itself"
        algorithm.add_row(row, _level(account["learned"]), target)
    return network, algorithm


def _table(title: str, headers: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for place, header in enumerate(headers):
        numbers = place > 0
        table.add_column(
            header, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold"
        )
    return table


def _decimals(numbers: Iterable[float]) -> Iterable[str]:
    """Three decimals; three digits of what is small."""
    return (f"{number:.3f}" if number >= 0.1 else f"{number:.3g}" for number in numbers)


def _level(level: float) -> str:
    return f"{level:.3f}"
