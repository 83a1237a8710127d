"""Strategies that an agent is shown: variations of the best that were tried."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from amc.allocators.uniform import uniform
from amc.proposals.variations import Tried, Variations
from amc.search.problem import Problem
from envs import gain


class Suggestions:
    """What was tried in all problems, to suggest strategies for each of them.

    What was good under one budget of a network is varied, and scaled, under all of them. Rewards
    are compared as parts of the best gain under their budget, less the distance of the budgets:
    generous budgets gain more, which does not make their strategies better for a tight one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        self._vary = [Variations(problem.budget, problem.errors) for problem in problems]
        self._known: list[list[Tried]] = [[] for _ in problems]

    def suggest(self, number: int, rng: np.random.Generator) -> list[float]:
        """Actions of an episode of a problem."""
        budget, known = self._problems[number].budget, list[Tried]()
        for other, problem in enumerate(self._problems):
            if problem.budget.graph is budget.graph:
                self._catch_up(other)
                apart = abs(math.log(problem.budget.preserve_ratio / budget.preserve_ratio))
                best = max((one.reward for one in self._known[other]), default=0.0)
                scale = best if best > 0 else 1.0
                known += [
                    replace(one, reward=one.reward / scale, apart=apart)
                    for one in self._known[other]
                ]
        vary = self._vary[number]
        if not known:
            known = [vary.tried(uniform(budget, self._problems[number].errors), 0.0)]
        return budget.actions(vary(known, rng))

    def _catch_up(self, number: int) -> None:
        history, known = self._problems[number].trials.history, self._known[number]
        for episode in history[len(known) :]:
            gained = gain(episode.reward, history[0].reward)
            known.append(self._vary[number].tried(episode.strategy, gained))
