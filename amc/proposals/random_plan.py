"""A random strategy with random channels: for tests and as the weakest baseline."""

import numpy as np

from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan
from amc.objectives.budget import Budget


def random_plan(graph: ChannelGraph, preserve_ratio: float, seed: int = 0) -> Plan:
    """A plan with random counts that end within the budget, and random channels.

    Raises:
        AmcError: the ratio is out of range.
        InfeasibleBudgetError: the ratio cannot be reached.
    """
    rng = np.random.default_rng(seed)
    budget = Budget(graph, preserve_ratio)
    decided: list[int] = []
    for _ in budget.options:
        decided.append(budget.execute(decided, float(rng.random()))[0])
    counts = budget.complete(decided)
    return graph.plan(
        {
            group.name: rng.permutation(group.size)[:count]
            for group, count in zip(graph.decisions, counts, strict=True)
        }
    )
