"""LeGR: a global ranking whose scale and shift of every group are learned.

Chin, Ding, Zhang, Marculescu: Towards Efficient Model Compression via Learned Global Ranking
(CVPR 2020, arXiv 1904.12368). Channels are ranked by ``a * score + b`` with one (a, b) per group,
found by regularised (ageing) evolution. `max_pruning` is ``1 - --min-ratio``.
"""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.ranking import Ranking
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError
from amc.runtime.wording import suggestion

NAME = "ranking"
"""Under which the coefficients are saved."""

POPULATION, TOURNAMENT = 64, 16
"""Of the paper; of few episodes a quarter is the population, and of that a quarter competes."""

MUTATED = 0.1
"""Part of the groups that a mutation changes; one at least."""

SIGMA = 1.0
"""Standard deviation of the logarithm of a scale."""

COOLING = 1.25
"""Episodes, as a multiple of those there are, after which a mutation would change no scale."""


def legr(problem: AllocationProblem) -> Strategy | Proposals:
    """The ranking with coefficients that were learned before, at once; else it learns them."""
    if NAME not in problem.known:
        return evolved(problem)
    scale, shift = coefficients(problem.known[NAME], problem.budget)
    return Ranking.of(problem.budget, problem.scores).strategy(scale, shift)


def evolved(problem: AllocationProblem) -> Proposals:
    """Learns the coefficients; those of the best strategy so far are saved.

    After the uniform strategy, which only tells what the others are worth, random coefficients,
    then the plain ranking (all 1 and 0), then mutations of the winner of a tournament; each takes
    the place of the oldest.
    """
    budget, rng = problem.budget, np.random.default_rng(problem.seed)
    ranks = Ranking.of(budget, problem.scores)
    spread = np.array([float(np.std(problem.scores[g.name])) for g in budget.graph.decisions])
    size = min(POPULATION, max(problem.episodes // 4, 2))
    competing = max(round(size * TOURNAMENT / POPULATION), 1)
    yield uniform(budget, problem.errors or None)
    population: deque[tuple[float, FloatArray, FloatArray]] = deque(maxlen=size)
    best, number = -np.inf, 0
    while True:
        step = max(1 - number / (COOLING * max(problem.episodes - 1, 1)), 0.0)
        if number < size - 1:
            scale = np.exp(rng.normal(0, SIGMA, len(spread)))
            shift = rng.normal(0, 1, len(spread)) * spread
        elif number == size - 1:
            scale, shift = np.ones(len(spread)), np.zeros(len(spread))
        else:
            drawn = rng.integers(size, size=competing)
            _, scale, shift = max((population[i] for i in drawn), key=lambda one: one[0])
            scale, shift = scale.copy(), shift.copy()
            changed = rng.integers(len(spread), size=max(int(MUTATED * len(spread)), 1))
            scale[changed] *= np.exp(rng.normal(0, SIGMA * step, len(changed)))
            shift[changed] += rng.normal(0, 1, len(changed)) * spread[changed]
        reward = yield ranks.strategy(scale, shift)
        population.append((reward, scale, shift))
        number += 1
        if reward > best:
            best = reward
            problem.save(NAME, saved(budget, scale, shift))


def saved(budget: Budget, scale: FloatArray, shift: FloatArray) -> dict[str, Any]:
    """Coefficients as JSON values."""
    names = [group.name for group in budget.graph.decisions]
    pairs = zip(names, scale.tolist(), shift.tolist(), strict=True)
    return {"coefficients": {name: [a, b] for name, a, b in pairs}}


def coefficients(content: Mapping[str, Any], budget: Budget) -> tuple[FloatArray, FloatArray]:
    """Scale and shift of every group, [T] each, as `saved` has written them.

    Raises:
        AmcError: they are damaged, or of another network.
    """
    where, given = content.get("path", Path("ranking.json")), content.get("coefficients")
    names = [group.name for group in budget.graph.decisions]
    if not isinstance(given, Mapping):
        raise AmcError(f"{where}: no coefficients, expected {{group: [scale, shift]}}")
    for name in given:
        if name not in names:
            raise AmcError(f"{where}: {name!r} is no group{suggestion(name, names)}")
    if missing := [name for name in names if name not in given]:
        raise AmcError(f"{where}: {missing[0]!r} is missing: it is of another network")
    try:
        pairs = np.array([[float(x) for x in given[name]] for name in names], dtype=np.float64)
        if pairs.shape != (len(names), 2) or not (
            np.isfinite(pairs).all() and (pairs[:, 0] > 0).all()
        ):
            raise ValueError("a scale must be above 0, and all finite")
    except (TypeError, ValueError) as error:
        raise AmcError(f"{where}: damaged coefficients: {error}") from None
    return pairs[:, 0], pairs[:, 1]
