"""Channels go where they are missed least: a greedy allocation, without agent or validation."""

from collections.abc import Mapping
from itertools import permutations, product

import numpy as np

from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget

STEPS = 4
"""Counts below its own that a group may go down to in an exchange."""


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

    whole = budget.complete(counts.tolist())
    if (whole < counts).any():  # nothing fits beside the counts: they are no way into the budget
        whole = _exchanged(budget, values, whole)
    return min(budget.strategy(whole), uniform(budget, errors), key=total)


def _exchanged(budget: Budget, errors: list[FloatArray], counts: IntArray) -> IntArray:
    """One group takes its next count for another that gives up some, as long as errors fall."""
    options, cost = budget.options, budget.graph.cost
    lost = [np.interp(np.arange(o[-1] + 1), o, e) for o, e in zip(options, errors, strict=True)]

    def total(rows: IntArray) -> FloatArray:
        summed: FloatArray = np.sum([e[rows[:, t]] for t, e in enumerate(lost)], axis=0)
        return summed

    while True:
        trials = [counts]
        for t, u in permutations(range(len(options)), 2):
            more = options[t][options[t] > counts[t]][:1]
            fewer = options[u][options[u] < counts[u]][-STEPS:]
            for up, down in product(more, fewer):
                trials.append(counts.copy())
                trials[-1][[t, u]] = up, down
        rows = np.array(trials)
        macs = cost.macs_of(rows)
        inside = (budget.floor <= macs) & (macs <= budget.target)
        inside[0] = True
        best = int(np.where(inside, total(rows), np.inf).argmin())
        if best == 0:
            return counts
        counts = rows[best]
