"""One ratio for all groups."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.objectives.budget import Budget
from amc.objectives.objective import Costs, at_least_one
from amc.objectives.options import allowed_counts

CLEARLY = 0.9
"""Errors foretell so little of the network's accuracy that a rounding must have this part of the
plain one's to be taken for better."""

MOVED = 64
"""Groups to go up, and to go back, among which an exchange is looked for."""

BoolArray: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


def uniform(budget: Budget, errors: Mapping[str, FloatArray] | None = None) -> dict[str, int]:
    """The common channel ratio that meets the target.

    Where counts are multiples, a common ratio can be rounded in many ways. With errors it is the
    best one: every group at a count next to its share, the sum of the errors the least that was
    found. Without, it is the agent's 0.5 everywhere: what rounding leaves over is spent by the
    groups that come later.

    Args:
        budget: what a strategy may cost.
        errors: group name -> error, of any unit, at each of its `Budget.options`.
    """
    decided: list[int] = []
    for _ in budget.options:
        decided.append(int(budget.options[len(decided)][budget.even(decided)]))
    first = budget.complete(decided)
    if errors is not None and budget.multiple > 1:
        return budget.strategy(_rounded_best(budget, errors, first))
    return budget.strategy(first)


def _rounded_best(
    budget: Budget, errors: Mapping[str, FloatArray], otherwise: IntArray
) -> IntArray:
    """Counts next to a common ratio with the least sum of errors that was found, if it is clear.

    Groups go up to the next count one after the other, by error saved for each MAC; then one goes
    back for another one as long as that helps.

    Args:
        budget: what a strategy may cost.
        errors: as `uniform` takes them.
        otherwise: counts that are kept to where nothing is clearly better.
    """
    groups, options = budget.graph.decisions, budget.options
    shared = [(o, budget.exact_ratio * g.size) for g, o in zip(groups, options, strict=True)]
    below = [max(int(np.searchsorted(o, share, "right")) - 1, 0) for o, share in shared]
    above = [min(int(np.searchsorted(o, share)), len(o) - 1) for o, share in shared]
    low = np.array([o[i] for o, i in zip(options, below, strict=True)])
    high = np.array([o[i] for o, i in zip(options, above, strict=True)])
    known = [errors[group.name] for group in groups]
    gain = np.array([e[i] - e[j] for e, i, j in zip(known, below, above, strict=True)])

    def cost(up: BoolArray) -> Costs:
        return budget.cost_of(np.where(up, high, low))

    def total(counts: IntArray) -> float:
        places = map(np.searchsorted, options, counts)
        return float(sum(e[p] for e, p in zip(known, places, strict=True)))

    up = np.zeros(len(groups), dtype=bool)
    if cost(up[None])[0] > budget.target:  # the fewest that some may keep are above their share
        return otherwise
    while True:
        trials = _changed(up, low != high, gain)
        saved = trials @ gain - up @ gain
        spent = at_least_one(cost(trials) - cost(up[None]))
        able = (cost(trials) <= budget.target) & (saved > 1e-12)
        single = (trials.sum(axis=1) > up.sum()) & able
        if single.any():
            up = trials[int(np.where(single, saved / spent, -np.inf).argmax())]
        elif able.any():
            up = trials[int(np.where(able, saved, -np.inf).argmax())]
        else:
            break
    found = budget.complete(np.where(up, high, low).tolist())
    return found if total(found) <= CLEARLY * total(otherwise) else otherwise


def _changed(up: BoolArray, movable: BoolArray, gain: FloatArray) -> BoolArray:
    """The groups that are up with one more, and with one exchanged for another, a row each."""
    order = np.argsort(-gain, kind="stable")
    able, back = order[(~up & movable)[order]][:MOVED], order[up[order]][::-1][:MOVED]
    more = np.tile(up, (len(able), 1))
    more[np.arange(len(able)), able] = True
    exchanged = np.repeat(more, len(back), axis=0)
    exchanged[np.arange(len(exchanged)), np.tile(back, len(able))] = False
    return np.concatenate([more, exchanged])


def common_ratio(graph: ChannelGraph, ratio: float, multiple: int = 1) -> dict[str, int]:
    """Every group keeps this part of its channels (PocketFlow's meaning); the MACs follow."""
    strategy = {}
    for group in graph.decisions:
        options = allowed_counts(group, multiple, 0.0)
        strategy[group.name] = int(options[np.abs(options - ratio * group.size).argmin()])
    return strategy
