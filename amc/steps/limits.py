"""What a run limits, and the budget that follows."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from amc.allocators.multiples import MULTIPLES, budget_for
from amc.config.sections.objective import ObjectiveConfig
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.objectives import sizes
from amc.objectives.activations import activations
from amc.objectives.budget import Budget
from amc.objectives.custom import users_objective
from amc.objectives.latency_table import LatencyTable, rewarded_multiple
from amc.objectives.objective import Objective, together
from amc.runtime.errors import AmcError
from amc.steps.job import Settings
from envs.rewards import UNCONSTRAINED


def make_budget(
    graph: ChannelGraph,
    preserve_ratio: float,
    config: Settings,
    table: LatencyTable | None = None,
) -> Budget:
    """The budget to search or walk in.

    Args:
        graph: what can be cut.
        preserve_ratio: part that stays, where the settings do not name several.
        config: what is limited, and which counts a group may keep.
        table: of latencies, instead of the one that the settings name.

    Raises:
        AmcError: an objective cannot be used with this network.
        InfeasibleBudgetError: the target cannot be reached.
    """
    tolerance = 1.0 if config.reward.reward in UNCONSTRAINED else 0.02
    if table is None and config.limits.latency_table is not None:
        table = LatencyTable.load(config.limits.latency_table)
    parts = [
        (objective_of(name, graph, config.limits, table), ratio)
        for name, ratio in config.limits.ratios(preserve_ratio)
    ]
    (limited, ratio), full = parts[0], graph.counts({})
    if len(parts) > 1:
        limited = together(parts, full)
        ratio = 1.0 / float(limited(full))
    counts = config.counts
    return budget_for(
        graph,
        ratio,
        counts.channel_multiple,
        tolerance,
        counts.min_ratio,
        None if limited.name == "macs" else limited,
        MULTIPLES[0] if table is None else rewarded_multiple(table, graph),
    )


def latency(graph: ChannelGraph, table: LatencyTable) -> Objective:
    """Milliseconds of a forward pass, by a table."""
    return Objective("latency", "ms by the latency table", table.of(graph))


def objective_of(
    name: str, graph: ChannelGraph, config: ObjectiveConfig, table: LatencyTable | None = None
) -> Objective:
    """The objective of this name for a network.

    Args:
        name: as ``--objective`` has it.
        graph: of the network.
        config: bits of its layers.
        table: for the latency.

    Raises:
        AmcError: a pattern of bits matches no layer, or the user's function is of no use.
    """
    if name == "latency":
        assert table is not None  # the settings belong together
        return latency(graph, table)
    weight = bits_of(graph, config.weight_bits, config.layer_weight_bits, "weight")
    if name == "bits":
        inputs = bits_of(graph, config.activation_bits, config.layer_activation_bits, "activation")
        return sizes.bits(graph, weight, inputs)
    if name == "memory":
        return sizes.memory(graph, weight)
    simple = {
        "macs": sizes.macs,
        "params": sizes.params,
        "filters": sizes.filters,
        "activations": activations,
    }
    return simple[name](graph) if name in simple else users_objective(name, graph)


def bits_of(
    graph: ChannelGraph, usual: int, single: Mapping[str, int], what: str
) -> npt.NDArray[np.int64]:
    """Bits of every layer, [L]; the last pattern that matches a layer decides.

    Raises:
        AmcError: a pattern matches no layer.
    """
    found = np.full(len(graph.layers), usual, dtype=np.int64)
    for pattern, bits in single.items():
        met = np.array([_matches(pattern, layer) for layer in graph.layers], dtype=bool)
        if not met.any():
            names = ", ".join(layer.name for layer in graph.layers)
            raise AmcError(f"--layer-{what}-bits {pattern!r} matches no layer; layers are {names}")
        found[met] = bits
    return found


def _matches(pattern: str, layer: Layer) -> bool:
    return pattern == layer.kind or fnmatchcase(layer.name, pattern)
