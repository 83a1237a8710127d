"""What a run limits, and the budget that follows."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from amc.allocators.multiples import budget_for
from amc.config.sections.objective import ObjectiveConfig
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Layer
from amc.objectives import sizes
from amc.objectives.activations import activations
from amc.objectives.budget import Budget
from amc.objectives.custom import users_objective
from amc.objectives.objective import Objective, together
from amc.runtime.errors import AmcError
from amc.steps.job import Settings
from envs.rewards import UNCONSTRAINED


def make_budget(graph: ChannelGraph, preserve_ratio: float, config: Settings) -> Budget:
    """The budget to search or walk in.

    Args:
        graph: what can be cut.
        preserve_ratio: part that stays, where the settings do not name several.
        config: what is limited, and which counts a group may keep.

    Raises:
        AmcError: an objective cannot be used with this network.
        InfeasibleBudgetError: the target cannot be reached.
    """
    tolerance = 1.0 if config.reward.reward in UNCONSTRAINED else 0.02
    ratios = config.limits.ratios(preserve_ratio)
    limited: Objective | None = None
    if len(ratios) > 1:
        full = graph.counts({})
        parts = [(objective_of(name, graph, config.limits), part) for name, part in ratios]
        limited = together(parts, full)
        preserve_ratio = 1.0 / float(limited(full))
    elif ratios[0][0] != "macs":
        limited = objective_of(ratios[0][0], graph, config.limits)
        preserve_ratio = ratios[0][1]
    else:
        preserve_ratio = ratios[0][1]
    counts = config.counts
    return budget_for(
        graph, preserve_ratio, counts.channel_multiple, tolerance, counts.min_ratio, limited
    )


def objective_of(name: str, graph: ChannelGraph, config: ObjectiveConfig) -> Objective:
    """The objective of this name for a network.

    Raises:
        AmcError: a pattern of bits matches no layer, or the user's function is of no use.
    """
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
