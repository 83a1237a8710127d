"""Channels go where they are missed least: a greedy allocation, without agent or validation."""

from collections.abc import Mapping

import numpy as np

from amc.allocate.uniform import uniform
from amc.budget import Budget
from amc.graph.labels import FloatArray
from amc.plan import Strategy


def greedy(budget: Budget, errors: Mapping[str, FloatArray]) -> dict[str, int]:
    """From all channels on, the group shrinks whose next count adds the least error per MAC saved.

    Nearly minimises the sum of the groups' errors; where steps are so coarse that the uniform
    strategy has a smaller sum, it is that one.

    Args:
        budget: what a strategy may cost.
        errors: group name -> error, of any unit, at each of its `Budget.options`.
    """
    options, cost = budget.options, budget.graph.cost
    values = [errors[group.name] for group in budget.graph.decisions]
    at = np.array([len(allowed) - 1 for allowed in options])  # every group's position in options
    counts = np.array([allowed[-1] for allowed in options])
    while (now := cost.macs(counts)) > budget.target:
        able = np.flatnonzero(at)
        trials = np.tile(counts, (len(able), 1))
        trials[range(len(able)), able] = [options[t][at[t] - 1] for t in able]
        saved = now - cost.macs_of(trials)
        added = np.array([values[t][at[t] - 1] - values[t][at[t]] for t in able])
        best = int((added / np.maximum(saved, 1)).argmin())  # in tiny layers less than 1 a sample
        at[able[best]] -= 1
        counts = trials[best]

    def total(strategy: Strategy) -> float:
        wanted = budget.graph.counts(strategy)
        places = map(np.searchsorted, options, wanted)
        return float(sum(e[p] for e, p in zip(values, places, strict=True)))

    found = budget.strategy(budget.complete(counts.tolist()))
    return min(found, uniform(budget, errors), key=total)
