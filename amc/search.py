"""The search: an agent walks the environment, the best feasible strategy wins.

The only room besides the entrance that joins `amc`, `envs` and `agents`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from amc.budget import Budget
from amc.compress import Compressor
from amc.errors import AmcError
from amc.evaluate import evaluate
from amc.plan import Strategy
from amc.recover.batchnorm import adapt_batchnorm
from amc.solve.stats import Batches

try:
    from agents import AmcDDPG
    from envs import ChannelPruningEnv, Outcome, Reward
except ImportError as error:  # both names are common: say whose packages these are
    places = ", ".join(f"{n}: {s.origin}" for n in ("agents", "envs") if (s := find_spec(n)))
    raise AmcError(
        f"`agents` and `envs` of amc-pruning are hidden by other packages ({places}): {error}"
    ) from error

GREEDY = -1
"""Episode number of the noise-free policy, walked once after the last episode."""


@dataclass(frozen=True)
class Episode:
    """One strategy that was tried.

    Attributes:
        number: from 0; `GREEDY` for the noise-free policy.
        strategy: channels kept per group.
        outcome: score and size.
        reward: of the outcome.
        best: highest reward up to here.
    """

    number: int
    strategy: Strategy
    outcome: Outcome
    reward: float
    best: float


@dataclass(frozen=True)
class Found:
    """Result of a search: the best episode, all of them, and the agent that found them."""

    best: Episode
    history: tuple[Episode, ...]
    agent: AmcDDPG

    def finalists(self, count: int, always: Strategy) -> list[Strategy]:
        """The best strategies and ``always``: ``count`` different ones, best first."""
        chosen = [always]
        for episode in sorted(self.history, key=lambda e: -e.reward):
            if len(chosen) < count and episode.strategy not in chosen:
                chosen.append(episode.strategy)
        return chosen[1:] + chosen[:1]


def proxy(
    compressor: Compressor, validation: Batches, adaptation: Batches = ()
) -> Callable[[Strategy], Outcome]:
    """What a strategy is worth, on cached statistics: cut, adapt, validate, count.

    Batch norm is adapted on a few images: over random strategies of ResNet-20 on digits this
    raised the rank correlation with the loss of the final, sequential cut from -0.07 to 0.66 at
    0.15 of the MACs and from 0.41 to 0.66 at 0.3, for the price of one more validation pass.

    Args:
        compressor: what cuts.
        validation: labelled images that the score is measured on.
        adaptation: images for batch norm; none leaves it alone.
    """
    graph, seen = compressor.graph, dict[tuple[int, ...], Outcome]()

    def outcome(strategy: Strategy) -> Outcome:
        counts = graph.counts(strategy)
        key = tuple(counts.tolist())
        if key not in seen:
            small = compressor.cut(strategy)
            if adaptation:
                adapt_batchnorm(small, adaptation)
            score = evaluate(small, validation)
            seen[key] = Outcome(score, graph.cost.macs(counts), graph.cost.params(counts))
        return seen[key]

    return outcome


def search(
    budget: Budget,
    evaluate: Callable[[Strategy], Outcome],
    reward: Reward,
    *,
    episodes: int,
    warmup_episodes: int,
    seed: int,
    on_episode: Callable[[Episode, Mapping[str, Any]], None] = lambda episode, losses: None,
) -> Found:
    """Lets DDPG find the strategy of highest reward within the budget (He et al. 2018).

    The first episode of the warm-up is the uniform strategy.
    """
    history: list[Episode] = []

    def record(number: int, info: dict[str, Any]) -> None:
        outcome: Outcome = info["outcome"]
        value = float(reward(outcome))
        best = max([value, *(e.best for e in history[-1:])])
        history.append(Episode(number, info["strategy"], outcome, value, best))
        on_episode(history[-1], agent.logger.name_to_value)

    agent = AmcDDPG(
        ChannelPruningEnv(budget, evaluate, reward),
        warmup_episodes=min(warmup_episodes, episodes),
        seed=seed,
    )
    agent.learn_episodes(episodes, lambda number, _, info: record(number, info))
    record(GREEDY, walk(agent, ChannelPruningEnv(budget, evaluate, reward)))
    feasible = [e for e in history if budget.allows(e.strategy)]
    best = max(feasible, key=lambda e: e.reward)
    return Found(best, tuple(history), agent)


def walk(policy: AmcDDPG, env: ChannelPruningEnv) -> dict[str, Any]:
    """One episode without noise; the info of its last step."""
    observation, info = env.reset()
    done = False
    while not done:
        action, _ = policy.predict(observation, deterministic=True)
        observation, _, done, _, info = env.step(np.asarray(action, dtype=np.float32))
    return info
