"""Variations of the best strategies so far; of many, the one that its errors speak for.

What a group's readers lose by each count is known exactly before anything is evaluated
(`amc.reconstruction.sensitivity`), but not how much the network minds it. A model that begins with
the plain sum of the errors learns that from the strategies that were tried, and screens new ones
for free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget


@dataclass(frozen=True)
class Tried:
    """A strategy that was tried, in terms that other budgets of the network can use too.

    Attributes:
        ratios: parts of the groups that it kept, [T].
        errors: its errors beyond those of the uniform strategy of the same budget, relative to
            the sum of these, [T]; zeros where errors are not known.
        reward: comparable between budgets.
        apart: how far its budget is from the one in question; it counts that much less as a
            parent.
    """

    ratios: FloatArray
    errors: FloatArray
    reward: float
    apart: float = 0.0


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
        errors: group name -> error at each of its `Budget.options`; without, nothing is screened,
            and the first candidate that is not known is proposed.
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
    candidates: int = 64

    def tried(self, strategy: Strategy, reward: float) -> Tried:
        """What is to be remembered of a strategy under this budget."""
        counts = self.budget.graph.counts(strategy)
        return Tried(counts / self._sizes, self._relative(counts[None])[0], reward)

    def __call__(self, known: Sequence[Tried], rng: np.random.Generator) -> dict[str, int]:
        """The next strategy to try, none that is known if it can be helped.

        The uniform one if nothing was tried yet.
        """
        if not known:
            return uniform(self.budget, self.errors)
        distinct: dict[bytes, Tried] = {}
        for one in sorted(known, key=lambda one: one.apart - one.reward):
            distinct.setdefault(self._key(one.ratios * self._sizes), one)
        best = np.array([one.ratios for one in distinct.values()][: self.population])
        for wider in (1, 2, 4):  # coarse steps leave few strategies nearby
            fitted = self.budget.fitted(self._children(best, wider * self.step, rng))
            counts = np.array([self.budget.complete(row.tolist()) for row in fitted])
            order = np.arange(len(counts))
            if self.errors is not None:
                order = np.argsort(-self.promise(known, counts), kind="stable")
            fresh = [i for i in order if self._key(counts[i]) not in distinct]
            if fresh:
                return self.budget.strategy(counts[fresh[0]])
        return self.budget.strategy(counts[order[0]])

    @staticmethod
    def _key(counts: FloatArray | IntArray) -> bytes:
        return np.rint(counts).astype(np.int64).tobytes()

    def _children(self, best: FloatArray, step: float, rng: np.random.Generator) -> FloatArray:
        """Variations of ratios [P, T], the best first, [R, T]."""
        number, length = self.candidates, best.shape[1]
        if len(best) < self.population:
            children: FloatArray = best[0] * np.exp(rng.normal(0, step, (number, length)))
            return children
        one, other = (best[rng.integers(len(best), size=(number, 3)).min(axis=1)] for _ in "ab")
        crossed = (rng.random((number, 1)) < 0.5) & (rng.random((number, length)) < 0.5)
        changed = rng.random((number, length)) < self.share
        changed[np.arange(number), rng.integers(length, size=number)] = True
        factors = np.exp(changed * rng.normal(0, step, (number, length)))
        children = np.where(crossed, other, one) * factors
        return children

    def promise(self, known: Sequence[Tried], counts: IntArray) -> FloatArray:
        """How good strategies promise to be, [R]; any unit, higher is better.

        Ridge regression of the rank of the reward on the errors. A common weight of all errors is
        learned almost freely; what single groups deviate from it is held small, so that few tried
        strategies suffice.

        Args:
            known: what was tried, under this budget or others.
            counts: of the strategies in question, [R, T].
        """
        asked = self._relative(counts)
        rewards = np.array([one.reward for one in known])
        if len(known) < FEWEST or (rewards == rewards[0]).all():
            promised: FloatArray = -asked.sum(axis=1)
            return promised
        errors = np.array([one.errors for one in known])
        ranks = np.searchsorted(np.sort(rewards), rewards) / len(rewards)
        centre, scale = errors.mean(axis=0), max(float(errors.std(axis=0).mean()), 1e-12)

        def columns(values: FloatArray) -> FloatArray:
            apart = (values - centre) / scale
            return np.column_stack([np.ones(len(values)), apart.sum(axis=1), apart])

        x = columns(errors)
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

    @cached_property
    def _usual(self) -> FloatArray:
        """Errors of the uniform strategy, [T]."""
        counts = self.budget.graph.counts(uniform(self.budget, self.errors))
        usual: FloatArray = self._table[np.arange(len(counts)), counts]
        return usual

    def _relative(self, counts: IntArray) -> FloatArray:
        """Errors of strategies as `Tried` has them, [R, T]."""
        if self.errors is None:
            return np.zeros(counts.shape)
        errors = self._table[np.arange(counts.shape[1]), counts]
        relative: FloatArray = (errors - self._usual) / max(float(self._usual.sum()), 1e-12)
        return relative
