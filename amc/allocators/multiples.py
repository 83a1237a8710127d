"""Multiples that kept channels are rounded to: what runtimes compute fast, if it leaves a choice.

Kernels work on blocks of channels (vector registers, tensor cores). At half of the MACs a narrow
MobileNetV2 takes twice the original's time in onnxruntime by any counts, and two thirds of it by
multiples of 8 (experiments/README.md, "Faster, not only smaller").
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from amc.allocators.uniform import common_ratio
from amc.graph.channel_graph import ChannelGraph
from amc.objectives.budget import Budget
from amc.objectives.objective import Objective
from amc.runtime.errors import AmcError

MULTIPLES = (8, 4, 2, 1)
"""The best one first. 16 is faster where kernels work on blocks of 16, but leaves a group of 16
channels whole."""

ENOUGH = 1_000
"""Strategies within a budget that are a choice: five times as many as a search tries."""

NEAR = 0.125
"""Part of a group by which rounding may change a ratio that was asked for."""


def budget_for(
    graph: ChannelGraph,
    preserve_ratio: float,
    multiple: int | Literal["auto"] = "auto",
    tolerance: float = 0.02,
    min_ratio: float = 0.1,
    objective: Objective | None = None,
    largest: int = MULTIPLES[0],
) -> Budget:
    """The budget in the largest of `MULTIPLES` that leaves `ENOUGH` strategies; its note says why.

    Where single channels leave fewer, it is the largest multiple that leaves as many as they do.

    Raises:
        AmcError: an argument is out of range.
        InfeasibleBudgetError: the target is out of reach for any multiple, or for the given one.
    """
    if multiple != "auto":
        return Budget(graph, preserve_ratio, tolerance, multiple, min_ratio, "", objective)
    # says what is out of reach
    finest = Budget(graph, preserve_ratio, tolerance, 1, min_ratio, "", objective)
    wanted, refused = strategies(finest, ENOUGH), ""
    for step in [m for m in (16, *MULTIPLES) if 1 < m <= largest]:
        try:
            found = replace(finest, multiple=step)
        except AmcError:  # the target, or a bound of the user's, lies below its least counts
            refused = refused or f"of {step} even the fewest cost more"
            continue
        # what is nearest below where nothing lies inside is no match for what lies inside
        count = 0 if found.shortfall else strategies(found, wanted)
        if count >= wanted:
            return replace(found, note=refused or "runtimes compute these fastest")
        refused = refused or f"of {step} {_so_few(count)} the budget"
    return replace(finest, note=refused)


def _so_few(count: int) -> str:
    if count < 2:
        return ("none meets", "only one strategy meets")[count]
    return f"only {count} strategies meet"


def strategies(budget: Budget, limit: int) -> int:
    """How many strategies meet the budget; counted up to the limit.

    A search in depth that follows only counts from which the budget can be met. It gives up after
    20 steps for each strategy, so that it may count too few where these are hard to find.
    """
    found, left, last = 0, 20 * limit, len(budget.options) - 1
    waiting: list[tuple[int, ...]] = [()]
    while waiting and found < limit and left:
        decided, left = waiting.pop(), left - 1
        options = budget.options[len(decided)]
        if len(decided) < last:
            waiting += [(*decided, int(count)) for count in options[budget.allowed(decided)]]
            continue
        counts = np.tile(np.array([*decided, 0]), (len(options), 1))
        counts[:, last] = options
        costs = budget.cost_of(counts)
        found += int(((budget.floor <= costs) & (costs <= budget.target)).sum())
    return min(found, limit)


def common_ratio_for(
    graph: ChannelGraph, ratio: float, multiple: int | Literal["auto"] = "auto"
) -> dict[str, int]:
    """Every group keeps this part of its channels, in the largest multiples that stay near it."""
    for step in MULTIPLES if multiple == "auto" else (multiple,):
        found = common_ratio(graph, ratio, step)
        apart = [abs(found[name] / size - ratio) for name, size in graph.sizes.items()]
        if max(apart, default=0.0) <= NEAR:
            break
    return found
