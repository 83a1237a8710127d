"""A search problem: a network under a budget, and what a search finds in it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agents import Policy
from agents.episodic import EpisodicAlgorithm
from amc.allocators.by_density import by_density
from amc.allocators.family import Shape, weights
from amc.allocators.scores import Errors
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.search.policies import prior_of
from amc.search.trials import Trials
from amc.tasks.evaluate import Score
from envs import ChannelPruningEnv, Episode, Outcome


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        best: the best episode.
        history: all of them.
        agent: that found them, if any.
        shape: of the prior that the agent's actions are residuals on, if it has one.
    """

    best: Episode
    history: tuple[Episode, ...]
    agent: EpisodicAlgorithm | None
    shape: Shape | None = None

    def finalists(self, count: int, always: Strategy) -> list[Strategy]:
        """The best strategies and ``always``: ``count`` different ones, best first."""
        others = [strategy for strategy in self.best_first if strategy != always]
        return [*others[: count - 1], always]

    @property
    def best_first(self) -> list[Strategy]:
        """The different strategies that were tried, mere probes aside."""
        chosen: list[Strategy] = []
        found = (episode for episode in self.history if not episode.probe)
        for episode in sorted(found, key=lambda e: -e.reward):
            if episode.strategy not in chosen:
                chosen.append(episode.strategy)
        return chosen


@dataclass(frozen=True)
class Problem:
    """A network under a budget.

    Attributes:
        budget: what a strategy may cost.
        trials: tells what strategies are worth, and when it is enough.
        errors: of every group; strategies that are not the actor's own are screened by them.
        evaluate: what walks ask instead of the trials.
    """

    budget: Budget
    trials: Trials
    errors: Errors | None = None
    evaluate: Callable[[Strategy], Outcome] | None = None

    def env(self) -> ChannelPruningEnv:
        """The walk over the network."""
        outcome = self.evaluate or self.trials
        return ChannelPruningEnv(self.budget, outcome, self.trials.reward, self.errors)

    def last(self) -> ChannelPruningEnv:
        """The same for the walk of the finished policy, which is an episode in any case."""
        return replace(self, evaluate=None).env()


def on_prior(budget: Budget, errors: Errors | None, shape: Shape | None) -> Budget:
    """The budget in which an action of 0.5 is that of a shape; without one, of a common ratio."""
    shares = () if shape is None else tuple(weights(budget, errors or {}, shape).tolist())
    return budget if shares == budget.prior else replace(budget, prior=shares)


def starts(budget: Budget, errors: Errors | None) -> list[dict[str, int]]:
    """Strategies that need no search: the uniform one and, of the errors, the greedy one."""
    found = [uniform(budget, errors)]
    if errors and (other := by_density(budget, errors)) not in found:
        found.append(other)
    return found


def walk(policy: Any, env: ChannelPruningEnv) -> dict[str, Any]:
    """One episode without noise; the info of its last step."""
    observation, info = env.reset()
    done = False
    while not done:
        action, _ = policy.predict(observation, deterministic=True)
        observation, _, done, _, info = env.step(np.asarray(action, dtype=np.float32))
    return info


def proposed(policy: Any, budget: Budget, errors: Errors | None) -> dict[str, int]:
    """The strategy that a policy walks to, on its own prior; nothing is evaluated."""
    nothing = Outcome(Score(0.0, 0.0, 0), 0, 0)
    if isinstance(policy, Policy):
        budget = on_prior(budget, errors, prior_of(policy))
    info = walk(policy, ChannelPruningEnv(budget, lambda strategy: nothing, errors=errors))
    strategy: dict[str, int] = info["strategy"]
    return strategy
