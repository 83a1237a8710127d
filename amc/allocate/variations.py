"""Variations of the best strategies so far; of many, the one that its errors speak for.

What a group's readers lose by each count is known exactly before anything is evaluated
(`amc.sensitivity`), but not how much the network minds it. A model that begins with the plain sum
of the errors learns that from the strategies that were tried, and screens new ones for free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from amc.allocate.uniform import uniform
from amc.budget import Budget
from amc.graph.labels import FloatArray, IntArray
from amc.plan import Strategy

Tried = Sequence[tuple[Strategy, float]]
"""Strategies and their rewards."""

FEWEST = 8
"""Tried strategies below which the model is the plain sum of the errors."""


@dataclass(frozen=True)
class Variations:
    """Proposes strategies near the best ones.

    The parents are the better of random members of the ``population`` best; half of the time two
    are crossed. Then some of the ratios are multiplied by log-normal factors, and all of them are
    scaled to the budget together, so that a change of one group is paid for by all others.

    Attributes:
        budget: what a strategy may cost.
        errors: group name -> error at each of its `Budget.options`; without, nothing is screened.
        population: strategies that are varied.
        step: standard deviation of the logarithm of a factor.
        share: chance of each ratio to be changed; one is in any case.
        candidates: variations of which the most promising one is proposed.
    """

    budget: Budget
    errors: Mapping[str, FloatArray] | None = None
    population: int = 10
    step: float = 0.3
    share: float = 0.3
    candidates: int = 16

    def __call__(self, tried: Tried, rng: np.random.Generator) -> dict[str, int]:
        """The next strategy to try; the uniform one if none was tried yet."""
        if not tried:
            return uniform(self.budget)
        ranked = sorted(tried, key=lambda one: -one[1])[: self.population]
        best = np.array([self.budget.graph.counts(s) for s, _ in ranked]) / self._sizes
        counts = self.budget.fitted(self._children(best, rng))
        chosen = 0
        if self.errors is not None:
            chosen = int(self.promise(tried, counts).argmax())
        return self.budget.strategy(self.budget.complete(counts[chosen].tolist()))

    def _children(self, best: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Variations of ratios [P, T], the best first, [R, T]."""
        number, length = (self.candidates if self.errors is not None else 1), best.shape[1]
        if len(best) < self.population:
            children: FloatArray = best[0] * np.exp(rng.normal(0, self.step, (number, length)))
            return children
        one, other = (best[rng.integers(len(best), size=(number, 3)).min(axis=1)] for _ in "ab")
        crossed = (rng.random((number, 1)) < 0.5) & (rng.random((number, length)) < 0.5)
        changed = rng.random((number, length)) < self.share
        changed[np.arange(number), rng.integers(length, size=number)] = True
        factors = np.exp(changed * rng.normal(0, self.step, (number, length)))
        children = np.where(crossed, other, one) * factors
        return children

    def promise(self, tried: Tried, counts: IntArray) -> FloatArray:
        """How good strategies promise to be, [R]; any unit, higher is better.

        Ridge regression of the rank of the reward on the errors. A common weight of all errors is
        learned almost freely; what single groups deviate from it is held small, so that few tried
        strategies suffice.

        Args:
            tried: what is known.
            counts: of the strategies in question, [R, T].
        """
        asked = self._errors(counts)
        rewards = np.array([reward for _, reward in tried])
        if len(tried) < FEWEST or (rewards == rewards[0]).all():
            promised: FloatArray = -asked.sum(axis=1)
            return promised
        known = self._errors(np.array([self.budget.graph.counts(s) for s, _ in tried]))
        ranks = np.searchsorted(np.sort(rewards), rewards) / len(rewards)
        centre, scale = known.mean(axis=0), max(float(known.std(axis=0).mean()), 1e-12)

        def columns(errors: FloatArray) -> FloatArray:
            apart = (errors - centre) / scale
            return np.column_stack([np.ones(len(errors)), apart.sum(axis=1), apart])

        x = columns(known)
        penalty = np.diag([1e-9, 0.1, *np.ones(len(centre))])
        target = (ranks - ranks.mean()) / max(float(ranks.std()), 1e-12)
        promised = columns(asked) @ np.linalg.solve(x.T @ x + penalty, x.T @ target)
        return promised

    @cached_property
    def _sizes(self) -> IntArray:
        return np.array([group.size for group in self.budget.graph.decisions])

    @cached_property
    def _table(self) -> FloatArray:
        """Errors by decision and count, [T, largest size + 1]."""
        assert self.errors is not None
        every = np.arange(max(self._sizes) + 1)
        return np.array(
            [
                np.interp(every, options, self.errors[group.name])
                for group, options in zip(
                    self.budget.graph.decisions, self.budget.options, strict=True
                )
            ]
        )

    def _errors(self, counts: IntArray) -> FloatArray:
        """Errors of strategies by decision, [R, T]."""
        errors: FloatArray = self._table[np.arange(counts.shape[1]), counts]
        return errors
