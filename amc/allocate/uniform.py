"""One ratio for all groups."""

import numpy as np

from amc.budget import Budget
from amc.graph.groups import ChannelGraph
from amc.options import allowed_counts


def uniform(budget: Budget) -> dict[str, int]:
    """The common channel ratio that meets the MACs target; the agent's 0.5 everywhere.

    What rounding leaves over is spent by the groups that come later.
    """
    decided: list[int] = []
    for _ in budget.options:
        decided.append(int(budget.options[len(decided)][budget.even(decided)]))
    return budget.strategy(budget.complete(decided))


def common_ratio(graph: ChannelGraph, ratio: float, multiple: int = 1) -> dict[str, int]:
    """Every group keeps this part of its channels (PocketFlow's meaning); the MACs follow."""
    strategy = {}
    for group in graph.decisions:
        options = allowed_counts(group, multiple, 0.0)
        strategy[group.name] = int(options[np.abs(options - ratio * group.size).argmin()])
    return strategy
