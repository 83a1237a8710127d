"""The search: an agent walks the environment, the best strategy within the budget wins.

The only room besides the entrance that joins `amc`, `envs` and `agents`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from amc.allocate import Proposals, Variations, evolution, random_search, uniform
from amc.budget import Budget
from amc.compress import Compressor
from amc.errors import AmcError
from amc.evaluate import evaluate, softened
from amc.graph.labels import FloatArray
from amc.plan import Strategy
from amc.recover.quick import Quick
from amc.solve.stats import Batches

try:
    from agents import AGENTS
    from agents import Settings as Settings  # for those who call `search`
    from agents.episodic import EpisodicAlgorithm
    from amc.trials import Enough, Episode, Trials
    from envs import ChannelPruningEnv, Outcome, Reward, SideBySide
except ImportError as error:  # both names are common: say whose packages these are
    places = ", ".join(f"{n}: {s.origin}" for n in ("agents", "envs") if (s := find_spec(n)))
    raise AmcError(
        f"`agents` and `envs` of amc-pruning are hidden by other packages ({places}): {error}"
    ) from error

Errors = Mapping[str, FloatArray]
"""Group name -> reconstruction error at each of its allowed counts, see `amc.sensitivity`."""

PROPOSALS: Mapping[str, Callable[[Budget, int, Errors | None], Proposals]] = {
    "screened": evolution,
    "evolution": lambda budget, seed, errors: evolution(budget, seed),
    "random": lambda budget, seed, errors: random_search(budget, seed),
}
METHODS = (*AGENTS, *PROPOSALS)


@dataclass(frozen=True)
class Found:
    """Result of a search: the best episode, all of them, and the agent that found them, if any."""

    best: Episode
    history: tuple[Episode, ...]
    agent: EpisodicAlgorithm | None

    def finalists(self, count: int, always: Strategy) -> list[Strategy]:
        """The best strategies and ``always``: ``count`` different ones, best first."""
        chosen = [always]
        for episode in sorted(self.history, key=lambda e: -e.reward):
            if len(chosen) < count and episode.strategy not in chosen:
                chosen.append(episode.strategy)
        return chosen[1:] + chosen[:1]


def proxy(
    compressor: Compressor, validation: Batches, adapt: bool = True, quick: Quick | None = None
) -> Callable[[Strategy], Outcome]:
    """What a strategy is worth, on cached statistics: cut, train a little if told to, validate.

    Args:
        compressor: what cuts.
        validation: labelled images that the score is measured on.
        adapt: batch norms normalise by the validation images themselves, which stands for their
            adaptation after the cut and costs no second pass.
        quick: a few steps of training between cut and validation.
    """
    graph, seen = compressor.graph, dict[tuple[int, ...], Outcome]()
    wished = softened(compressor.model, validation)

    def outcome(strategy: Strategy) -> Outcome:
        counts = graph.counts(strategy)
        key = tuple(counts.tolist())
        if key not in seen:
            if quick:
                score = quick.tuned(compressor.cut(strategy), validation, wished)
            else:
                score = evaluate(compressor.borrow(strategy), validation, adapt, wished)
            seen[key] = Outcome(score, graph.cost.macs(counts), graph.cost.params(counts))
        return seen[key]

    return outcome


def search(
    budget: Budget,
    trials: Trials,
    reward: Reward,
    method: str = "ddpg",
    *,
    seed: int = 0,
    settings: Settings | None = None,
    errors: Errors | None = None,
    first: Sequence[Strategy] = (),
    measure: Callable[[Sequence[Strategy]], Sequence[Outcome]] | None = None,
    walks: int = 1,
    on_learn: Callable[[Mapping[str, Any]], None] = lambda logged: None,
) -> Found:
    """Finds the strategy of highest reward within the budget.

    Args:
        budget: what a strategy may cost.
        trials: tells what strategies are worth, and when it is enough.
        reward: of an outcome.
        method: one of `METHODS`.
        seed: of everything random.
        settings: of an agent.
        errors: of every group; strategies that are not the actor's own are screened by them.
        first: strategies that an agent is shown after the uniform one, which is always the first.
        measure: outcomes of several strategies at once.
        walks: strategies that an agent walks side by side under one policy, which learns from all
            of them afterwards.
        on_learn: called with what SB3 logged, after an agent has learned from an episode.
    """
    agent = None
    if method in PROPOSALS:
        follow(PROPOSALS[method](budget, seed, errors), trials)
    else:

        def env() -> ChannelPruningEnv:
            return ChannelPruningEnv(budget, trials, reward, errors)

        def look_ahead(strategies: Sequence[Strategy]) -> None:
            if measure:
                trials.look_ahead(strategies, measure)

        vary = Variations(budget, errors)

        def suggest(rng: np.random.Generator) -> list[float]:
            tried = [(episode.strategy, episode.reward) for episode in trials.history]
            return budget.actions(vary(tried, rng))

        shown = [budget.actions(strategy) for strategy in (uniform(budget), *first)]
        walked = SideBySide(env, walks, look_ahead) if walks > 1 else env()
        agent = AGENTS[method](walked, settings, shown, suggest, seed)
        with suppress(Enough):
            while trials.left > walks or not trials.history:
                agent.learn_episodes(1)
                on_learn(agent.logger.name_to_value)
            walk(agent, env())
    return Found(trials.best, tuple(trials.history), agent)


def follow(proposals: Proposals, trials: Trials) -> None:
    """Tries what is proposed until it is enough."""
    with suppress(Enough):
        strategy = next(proposals)
        while True:
            trials(strategy)
            strategy = proposals.send(trials.history[-1].reward)


def walk(policy: Any, env: ChannelPruningEnv) -> dict[str, Any]:
    """One episode without noise; the info of its last step."""
    observation, info = env.reset()
    done = False
    while not done:
        action, _ = policy.predict(observation, deterministic=True)
        observation, _, done, _, info = env.step(np.asarray(action, dtype=np.float32))
    return info
