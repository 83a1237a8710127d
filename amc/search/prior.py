"""What an agent's actions are residuals on: the uniform strategy, or a shape of few numbers.

An action of 0.5 everywhere is the prior. A shape means the same on every budget and network, so a
policy that was learned on one is used on it elsewhere, with weights that are computed there.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from amc.allocators.family import Shape, shaped
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.proposals.cem import CrossEntropy, new_numbers, telling
from amc.search.problem import Problem, on_prior
from amc.search.trials import LimitReached, Trials
from envs import Outcome, gain

Prior: TypeAlias = Literal["uniform", "sensitivity", "cem"]
"""Nothing, the sensitivities, or numbers that the first episodes search for."""

SENSITIVITY = Shape(exponent=0.5)
"""The shape of the prior of that name."""

PART = 0.2
"""Part of the episodes that search for a shape."""


def begun(
    problems: Sequence[Problem], prior: Prior, shape: Shape | None, seed: int
) -> tuple[list[Problem], Shape | None]:
    """The problems on their prior, and its shape; of `cem`, after the first episodes.

    What was tried for that is known to the problems: walked once more, it is no new episode.

    Args:
        problems: without a prior, with trials of the same number of episodes.
        prior: what the actions are residuals on.
        shape: one that is known already, which counts instead.
        seed: of everything random.
    """
    if shape is None and prior == "sensitivity":
        shape = SENSITIVITY
    elif shape is None and prior == "cem":
        shape = _searched(problems, seed)
    return [
        replace(
            problem,
            budget=on_prior(problem.budget, problem.errors, shape),
            evaluate=Recalled(problem.trials),
        )
        for problem in problems
    ], shape


def _searched(problems: Sequence[Problem], seed: int) -> Shape:
    """The numbers that gain most over the uniform strategies, in the mean of all problems."""
    found = [telling(problem.budget, problem.errors or {}) for problem in problems]
    names = tuple(dict.fromkeys(name for some in found for name in some))
    count = round(PART * problems[0].trials.limits.episodes) - 1
    search = CrossEntropy(names, count, seed) if names and count > 0 else None
    with suppress(LimitReached):
        standards = [
            _reward(problem, uniform(problem.budget, problem.errors)) for problem in problems
        ]
        for _ in range(count if search else 0):
            assert search is not None
            one = problems[0]
            known = [episode.strategy for episode in one.trials.history]
            shape = new_numbers(search, one.budget, one.errors or {}, known)
            gains = []
            for problem, standard in zip(problems, standards, strict=True):
                strategy = shaped(problem.budget, problem.errors or {}, shape)
                gains.append(gain(_reward(problem, strategy), standard))
            search.tell(float(np.mean(gains)))
    if search is None or search.best is None or search.best[0] <= 0:
        return Shape()
    return search.best[1]


def _reward(problem: Problem, strategy: Strategy) -> float:
    problem.trials(strategy)
    return problem.trials.history[-1].reward


class Recalled:
    """Trials whose episodes up to here are known: asked for once more, they are no new ones."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._known: dict[tuple[tuple[str, int], ...], list[Outcome]] = {}
        for one in trials.history:
            self._known.setdefault(_key(one.strategy), []).append(one.outcome)

    def __call__(self, strategy: Strategy) -> Outcome:
        """The outcome of a strategy; a new episode unless it is known."""
        known = self._known.get(_key(strategy))
        return known.pop() if known else self._trials(strategy)

    def new(self, strategies: Sequence[Strategy]) -> list[Strategy]:
        """Those that are not known."""
        return [strategy for strategy in strategies if not self._known.get(_key(strategy))]


def _key(strategy: Strategy) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(strategy.items()))
