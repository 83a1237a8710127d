"""What is known of a network before anything runs, as numbers: layers, groups, what can go."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from amc.allocators.multiples import budget_for
from amc.allocators.uniform import uniform
from amc.config.inspect import InspectConfig
from amc.graph.arrays import IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup, Layer
from amc.objectives.budget import Budget
from amc.runtime.errors import InfeasibleBudgetError


@dataclass(frozen=True)
class LayerFacts:
    """One layer; MACs per image, its part of the network's MACs, the groups of its outputs."""

    name: str
    kind: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: int
    groups: int
    calls: int
    input_size: tuple[int, ...]
    macs: int
    macs_share: float
    params: int
    out_groups: tuple[str, ...]


@dataclass(frozen=True)
class GroupFacts:
    """One channel group; numbers are output channels of its writers, ``width`` per decision.

    Attributes:
        unit: what ``width`` channels are together: "channel", or an attention "head".
        through: depthwise layers that pass the channels on.
        reason: why it stays whole; empty if it can be pruned.
        fewest, most: channels that it may keep.
        removable_share: part of the MACs that goes when it keeps the fewest, others all.
        uniform: channels that the uniform strategy keeps, where one was asked for.
    """

    name: str
    channels: int
    width: int
    unit: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    through: tuple[str, ...]
    residual: bool
    reason: str
    fewest: int
    most: int
    removable_share: float
    uniform: int | None


@dataclass(frozen=True)
class Inspection:
    """Everything that ``--json`` writes.

    Attributes:
        input_shape: of one image, see `feed.forms`.
        other_macs: outside of the layers (attention products).
        removable_share: part of the MACs that goes when every group keeps one decision.
        smallest_ratio: the least feasible --preserve-ratio; none if nothing can be pruned.
        largest_ratio: part of the MACs that the bounds leave.
        multiple: what kept channels are multiples of here.
        uniform_ratio: part of the MACs that the uniform strategy keeps, where one was asked for.
        infeasible: why there is no such strategy; empty if there is, or none was asked for.
        causes: why groups stay whole -> how many.
        baked: layers that computed their weights in forward and were made plain.
        seconds: of the trace.
        command: what to run next; empty if there is nothing, see `amc.reporting.suggest`.
    """

    model: str
    input_shape: Any
    num_classes: int
    macs: int
    other_macs: int
    params: int
    layers: tuple[LayerFacts, ...]
    groups: tuple[GroupFacts, ...]
    prunable: int
    removable_share: float
    smallest_ratio: float | None
    largest_ratio: float
    multiple: int
    uniform_ratio: float | None
    infeasible: str
    causes: dict[str, int]
    baked: tuple[str, ...]
    seconds: float
    command: str


def inspection_of(
    config: InspectConfig,
    graph: ChannelGraph,
    shape: Any,
    classes: int,
    baked: tuple[str, ...],
    seconds: float,
) -> Inspection:
    """What is known of a graph."""
    macs, cost = graph.macs(), graph.cost
    options = counts_allowed(config, graph)
    least = cost.macs(np.array([o[0] for o in options], dtype=np.int64))
    most = cost.macs(np.array([o[-1] for o in options], dtype=np.int64))
    one = cost.macs(np.ones(len(options), dtype=np.int64))
    # up, to four digits: the budget takes a ratio as the decimal that it is written as
    smallest = -(-(10**4) * least // macs) / 10**4 if options and macs else None
    strategy, infeasible = uniform_strategy(config, graph)
    kept = None if strategy is None else cost.macs(graph.counts(strategy)) / max(macs, 1)
    return Inspection(
        model=config.model,
        input_shape=shape,
        num_classes=classes,
        macs=macs,
        other_macs=graph.other_macs,
        params=graph.total_params,
        layers=tuple(layer_facts(graph, layer) for layer in graph.layers),
        groups=group_facts(graph, options, strategy),
        prunable=len(graph.decisions),
        removable_share=1 - one / macs if macs else 0.0,
        smallest_ratio=smallest,
        largest_ratio=most / macs if macs else 1.0,
        multiple=multiple(config, graph),
        uniform_ratio=kept,
        infeasible=infeasible,
        causes=graph.causes,
        baked=baked,
        seconds=seconds,
        command="",
    )


def counts_allowed(config: InspectConfig, graph: ChannelGraph) -> tuple[IntArray, ...]:
    """The counts that each decision may take, increasing."""
    if not graph.decisions:
        return ()
    return Budget(graph, 1.0, multiple=multiple(config, graph), min_ratio=config.min_ratio).options


def multiple(config: InspectConfig, graph: ChannelGraph) -> int:
    """What kept channels are multiples of; of ``auto`` without a target: any number."""
    if config.channel_multiple != "auto":
        return config.channel_multiple
    if config.preserve_ratio is None:
        return 1
    try:
        return budget_for(graph, config.preserve_ratio, min_ratio=config.min_ratio).multiple
    except InfeasibleBudgetError:
        return 1


def uniform_strategy(
    config: InspectConfig, graph: ChannelGraph
) -> tuple[dict[str, int] | None, str]:
    """The uniform strategy for --preserve-ratio, or why there is none."""
    if config.preserve_ratio is None:
        return None, ""
    ratio, least = config.preserve_ratio, config.min_ratio
    try:
        budget = budget_for(graph, ratio, config.channel_multiple, min_ratio=least)
    except InfeasibleBudgetError as error:
        return None, str(error)
    return uniform(budget), ""


def layer_facts(graph: ChannelGraph, layer: Layer) -> LayerFacts:
    """What the first table says of a layer."""
    spatial = graph.shapes[layer.weight][2:]
    tensors = [name for name in (layer.weight, layer.bias) if name is not None]
    place = (layer.weight, layer.out_dim)
    return LayerFacts(
        name=layer.name,
        kind=layer.kind,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        kernel=spatial,
        stride=layer.stride,
        groups=layer.groups,
        calls=layer.calls,
        # of three dimensions the graph knows the first and the last
        input_size=(layer.height, layer.width)[: len(spatial)],
        macs=layer.macs,
        macs_share=layer.macs / max(graph.macs(), 1),
        params=sum(math.prod(graph.shapes[name]) for name in tensors),
        out_groups=tuple(g.name for g in graph.groups if place in _places(g)),
    )


def group_facts(
    graph: ChannelGraph, options: tuple[IntArray, ...], strategy: dict[str, int] | None
) -> tuple[GroupFacts, ...]:
    """What the second table says of the groups; ``options`` are the counts of each decision."""
    whole, macs = graph.counts({}), max(graph.macs(), 1)
    position = {group.name: t for t, group in enumerate(graph.decisions)}
    depthwise = [layer for layer in graph.layers if layer.kind == "depthwise"]
    facts = []
    for group in graph.groups:
        fewest, most, smaller = group.size, group.size, whole.copy()
        if group.prunable:
            t = position[group.name]
            fewest, most = int(options[t][0]), int(options[t][-1])
            smaller[t] = fewest
        uniform_count = (strategy or {}).get(group.name)
        facts.append(
            GroupFacts(
                name=group.name,
                channels=group.size * group.width,
                width=group.width,
                unit=group.unit,
                writers=group.writers,
                readers=group.readers,
                through=tuple(
                    x.name for x in depthwise if (x.weight, x.out_dim) in _places(group)
                ),
                residual=group.residual,
                reason=group.reason,
                fewest=fewest * group.width,
                most=most * group.width,
                removable_share=1 - graph.cost.macs(smaller) / macs if group.prunable else 0.0,
                uniform=None if uniform_count is None else uniform_count * group.width,
            )
        )
    return tuple(facts)


def _places(group: ChannelGroup) -> set[tuple[str, int]]:
    return {(member.tensor, member.dim) for member in group.members}
