"""The cross-entropy method over the four numbers of a `Shape`.

Rubinstein: The Cross-Entropy Method for Combinatorial and Continuous Optimization (1999). Numbers
are drawn from a normal distribution, those that were worth most say what the next ones are drawn
from. Four numbers need few trials, and mean the same on another budget and another network.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np
from scipy.special import ndtri

from amc.allocators.family import Shape, depthwise, sensitivities, shaped, streams
from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.scores import Errors
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget

DRAWN_FROM: Mapping[str, tuple[float, float]] = {
    "exponent": (0.25, 0.5), "stream": (0.0, 0.6), "depth": (0.0, 1.0), "depthwise": (0.0, 0.6),
}  # fmt: skip
"""Mean and standard deviation that every number begins with; of factors, of their logarithm."""

FACTORS = ("stream", "depthwise")
"""Numbers that multiply."""

SPREAD_OUT = 0.25
"""Part of the episodes that are Sobol points of the first distribution."""

ELITE, FEWEST = 0.2, 5
"""Part of what was tried that the next numbers are drawn around, and the least number of them."""

FLOOR, FARTHEST = 0.1, 3.0
"""Least deviation of a draw, and how far it may lead, in deviations of the first distribution."""

TRIES = 8
"""Numbers that are drawn at most, from ever farther, until their strategy is a new one."""


class CrossEntropy:
    """Asked for numbers, and told what they are worth.

    Args:
        names: of the numbers that are searched for; the others stay as they are in a `Shape`.
        episodes: how often it will be asked about.
        seed: of everything random.
    """

    def __init__(self, names: tuple[str, ...], episodes: int, seed: int) -> None:
        # half a second, which no other command should wait for
        from scipy.stats import qmc

        self._names, self._rng = names, np.random.default_rng(seed)
        first = max(round(SPREAD_OUT * episodes), FEWEST)
        sobol = qmc.Sobol(len(names), seed=np.random.default_rng([seed, 1]))
        points = sobol.random_base2(math.ceil(math.log2(first)))[:first]
        self._first = list(ndtri(points.clip(1e-9, 1 - 1e-9)))
        self._tried: list[tuple[float, FloatArray]] = []
        self._asked = np.zeros(len(names))

    def ask(self, wider: float = 1.0) -> Shape:
        """The next numbers to try, drawn with this many times the deviation."""
        if self._first:
            drawn = self._first.pop(0)
        else:
            mean, deviation = self._around_the_best()
            drawn = self._rng.normal(mean, wider * deviation)
        self._asked = drawn.clip(-FARTHEST, FARTHEST)
        return self._shape(self._asked)

    def _around_the_best(self) -> tuple[FloatArray, FloatArray]:
        if not self._tried:  # no Sobol point meant a strategy that was not known
            return np.zeros(len(self._names)), np.ones(len(self._names))
        count = max(round(ELITE * len(self._tried)), FEWEST)
        elite = np.array([numbers for _, numbers in self._tried[:count]])
        return elite.mean(axis=0), np.maximum(elite.std(axis=0), FLOOR)

    def tell(self, reward: float) -> None:
        """What the numbers that were asked for last are worth; higher is better."""
        self._tried.append((reward, self._asked))
        self._tried.sort(key=lambda one: -one[0])  # of equal ones the first stays first

    @property
    def best(self) -> tuple[float, Shape] | None:
        """The highest reward so far and its numbers."""
        if not self._tried:
            return None
        reward, numbers = self._tried[0]
        return reward, self._shape(numbers)

    def _shape(self, drawn: FloatArray) -> Shape:
        found = {}
        for name, number in zip(self._names, drawn, strict=True):
            mean, deviation = DRAWN_FROM[name]
            value = float(mean + deviation * number)
            found[name] = math.exp(value) if name in FACTORS else value
        return Shape(**found)


def telling(budget: Budget, errors: Errors) -> tuple[str, ...]:
    """The numbers that make a difference in this network."""
    graph, groups = budget.graph, set(budget.graph.sizes)
    said = {
        "exponent": bool(np.ptp(sensitivities(budget, errors)) > 0),
        "stream": 0 < len(streams(graph) & groups) < len(groups),
        "depth": len(groups) > 1,
        "depthwise": 0 < len(depthwise(graph) & groups) < len(groups),
    }
    return tuple(name for name, differs in said.items() if differs)


def cem(problem: AllocationProblem) -> Proposals:
    """The uniform strategy, Sobol points of the four numbers, then draws around the best."""
    budget, errors = problem.budget, problem.errors
    first = uniform(budget, errors or None)
    yield first
    names = telling(budget, errors)
    if not names:
        return
    search = CrossEntropy(names, problem.episodes - 1, problem.seed)
    known: list[Strategy] = [first]
    while True:
        known.append(shaped(budget, errors, new_numbers(search, budget, errors, known)))
        search.tell((yield known[-1]))


def new_numbers(
    search: CrossEntropy, budget: Budget, errors: Errors, known: Collection[Strategy]
) -> Shape:
    """The next numbers whose strategy is not known; where steps are coarse many mean the same."""
    for wider in range(1, TRIES + 1):
        shape = search.ask(wider)
        if shaped(budget, errors, shape) not in known:
            break
    return shape
