"""Channels go where they are missed least for what they cost: a greedy solver."""

from itertools import permutations, product

import numpy as np

from amc.allocators.scores import Errors
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.objectives.objective import at_least_one

STEPS = 4
"""Counts below its own that a group may go down to in an exchange."""


def by_density(budget: Budget, errors: Errors) -> dict[str, int]:
    """The group shrinks, one by one, whose next count adds the least error for what it saves.

    Nearly minimises the sum of the groups' errors; where steps are so coarse that the uniform
    strategy has a smaller sum, it is that one.

    Args:
        budget: what a strategy may cost.
        errors: group name -> error, of any unit, at each of its `Budget.options`.
    """
    options = budget.options
    values = [errors[group.name] for group in budget.graph.decisions]

    def total(strategy: Strategy) -> float:
        wanted = budget.graph.counts(strategy)
        places = map(np.searchsorted, options, wanted)
        return float(sum(e[p] for e, p in zip(values, places, strict=True)))

    counts = shrunk(budget, errors)
    whole = budget.complete(counts.tolist())
    if (whole < counts).any():  # nothing fits beside the counts: they are no way into the budget
        whole = _exchanged(budget, values, whole)
    return min(budget.strategy(whole), uniform(budget, errors), key=total)


def shrunk(budget: Budget, errors: Errors) -> IntArray:
    """Counts [T] once the groups have shrunk, step by step, until the target is met.

    Of all groups the one takes its next count that adds the least error for what it saves; what
    it saves is asked of the whole network anew after every step.
    """
    options = budget.options
    values = [errors[group.name] for group in budget.graph.decisions]
    at = np.array([len(allowed) - 1 for allowed in options])  # every group's position in options
    counts = np.array([allowed[-1] for allowed in options])
    while (now := budget.cost(counts)) > budget.target:
        able = np.flatnonzero(at)
        trials = np.tile(counts, (len(able), 1))
        trials[range(len(able)), able] = [options[t][at[t] - 1] for t in able]
        saved = now - budget.cost_of(trials)
        added = np.array([values[t][at[t] - 1] - values[t][at[t]] for t in able])
        best = int((added / at_least_one(saved)).argmin())
        at[able[best]] -= 1
        counts = trials[best]
    return counts


def _exchanged(budget: Budget, errors: list[FloatArray], counts: IntArray) -> IntArray:
    """One group takes its next count for another that gives up some, as long as errors fall."""
    options = budget.options
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
        costs = budget.cost_of(rows)
        inside = (budget.floor <= costs) & (costs <= budget.target)
        inside[0] = True
        best = int(np.where(inside, total(rows), np.inf).argmin())
        if best == 0:
            return counts
        counts = rows[best]
