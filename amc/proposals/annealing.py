"""Simulated annealing over the strategies of a budget (Kirkpatrick et al. 1983).

From the strategy it is at it moves to a neighbour, always if that is better, and with probability
``exp((reward - last) / temperature)`` if it is worse. The temperature falls geometrically, from
where half of the usual worsenings are accepted to `COLDEST` of that at the last episode.
"""

import math

import numpy as np

from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.uniform import uniform
from amc.graph.arrays import IntArray
from amc.objectives.budget import Budget

WARM_UP = 0.1
"""Part of the episodes, neighbours of the uniform strategy, whose rewards set the temperature."""

COLDEST = 1e-3
"""Temperature at the end, as a part of the first one."""

STEP = 0.2
"""Standard deviation of the logarithm of the factor on a group's ratio."""

SHARE = 0.2
"""Chance of every group to be changed by a move; one is in any case."""

TRIES = 8
"""Moves, ever wider, that are drawn at most until one leads anywhere."""


def annealing(problem: AllocationProblem) -> Proposals:
    """Moves from strategy to strategy, ever less often to a worse one.

    A move multiplies the ratios of a few groups by log-normal factors; then all are scaled until
    the budget is used up (`Budget.fitted`, `Budget.complete`), so that every strategy meets it.
    """
    budget, rng = problem.budget, np.random.default_rng(problem.seed)
    here = first = budget.graph.counts(uniform(budget, problem.errors or None))
    value = start = yield budget.strategy(first)
    warm_up = max(2, round(WARM_UP * problem.episodes))
    changes = list[float]()
    for _ in range(warm_up):
        there = neighbour(budget, first, rng)
        reward = yield budget.strategy(there)
        changes.append(abs(reward - start))
        if reward > value:
            here, value = there, reward
    usual = float(np.mean(changes))
    hottest = usual / math.log(2)  # half of the usual worsenings are accepted
    cooled = 1.0
    cooling = COLDEST ** (1 / max(problem.episodes - warm_up - 1, 1))
    while True:
        there = neighbour(budget, here, rng)
        reward = yield budget.strategy(there)
        chance = rng.random()  # drawn in any case: what follows does not hang on rounding
        temperature = max(hottest * cooled, np.finfo(float).tiny)
        if chance < math.exp(min((reward - value) / temperature, 0.0)):
            here, value = there, reward
        cooled *= cooling


def neighbour(budget: Budget, counts: IntArray, rng: np.random.Generator) -> IntArray:
    """Counts within the budget after a move from these, [T]."""
    sizes = np.array([group.size for group in budget.graph.decisions])
    there = counts
    for wider in range(1, TRIES + 1):  # where steps are coarse a small move leads back
        changed = rng.random(len(counts)) < SHARE
        changed[rng.integers(len(counts))] = True
        factors = np.exp(changed * rng.normal(0, wider * STEP, len(counts)))
        ratios = np.maximum(counts, 1) / sizes * factors
        fitted = budget.fitted(ratios[None])[0]
        there = budget.complete(fitted.tolist())
        if (there != counts).any():
            break
    return there
