"""The search: an agent walks the environment, the best strategy within the budget wins.

The only room besides the entrance that joins `amc`, `envs` and `agents`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from amc.allocators.greedy import greedy
from amc.allocators.uniform import uniform
from amc.calibration.statistics import Batches
from amc.graph.arrays import FloatArray
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.runtime import distributed
from amc.runtime.errors import AmcError
from amc.search.evolution import Proposals, evolution, random_search
from amc.search.variations import Tried, Variations
from amc.tasks.evaluate import Score, evaluate, softened
from amc.tasks.task import CLASSIFICATION, Task
from amc.training.short_training import Quick

try:
    from agents import AGENTS
    from agents import Policy as Policy  # as above
    from agents import Settings as Settings  # for those who call `search`
    from agents.episodic import EpisodicAlgorithm
    from amc.search.trials import Enough, Trials
    from envs import ChannelPruningEnv, Outcome, Rotation, SideBySide, gain
    from envs.outcome import Episode
except ImportError as error:  # both names are common: say whose packages these are
    places = ", ".join(f"{n}: {s.origin}" for n in ("agents", "envs") if (s := find_spec(n)))
    raise AmcError(
        f"`agents` and `envs` of amc-pruning are hidden by other packages ({places}): {error}"
    ) from error

Errors = Mapping[str, FloatArray]
"""Group name -> reconstruction error at each of its allowed counts (`sensitivity`)."""

PROPOSALS: Mapping[str, Callable[[Budget, int, Errors | None], Proposals]] = {
    "screened": evolution,
    "evolution": lambda budget, seed, errors: evolution(budget, seed),
    "random": lambda budget, seed, errors: random_search(budget, seed),
}
METHODS = (*AGENTS, *PROPOSALS)
OnLearn = Callable[[Mapping[str, Any]], None]


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
    compressor: Compressor,
    validation: Batches,
    adapt: bool = True,
    quick: Quick | None = None,
    task: Task = CLASSIFICATION,
) -> Callable[[Strategy], Outcome]:
    """What a strategy is worth, on cached statistics: cut, train a little if told to, validate.

    Args:
        compressor: what cuts.
        validation: images and targets that the score is measured on.
        adapt: batch norms normalise by the validation images themselves, which stands for their
            adaptation after the cut and costs no second pass.
        quick: a few steps of training between cut and validation, for the same purpose.
        task: what the network is for.
    """
    graph, seen = compressor.graph, dict[tuple[int, ...], Outcome]()
    wished = softened(compressor.model, validation, task)

    def outcome(strategy: Strategy) -> Outcome:
        counts = graph.counts(strategy)
        key = tuple(counts.tolist())
        distributed.check("the strategy", str(key))
        if key not in seen:
            if quick:
                score = quick.tuned(compressor.cut(strategy), validation, wished)
            else:
                score = evaluate(compressor.borrow(strategy), validation, adapt, wished, task)
            seen[key] = Outcome(score, graph.cost.macs(counts), graph.cost.params(counts))
        return seen[key]

    return outcome


@dataclass(frozen=True)
class Problem:
    """A network under a budget.

    Attributes:
        budget: what a strategy may cost.
        trials: tells what strategies are worth, and when it is enough.
        errors: of every group; strategies that are not the actor's own are screened by them.
    """

    budget: Budget
    trials: Trials
    errors: Errors | None = None

    def env(self) -> ChannelPruningEnv:
        """The walk over the network."""
        return ChannelPruningEnv(self.budget, self.trials, self.trials.reward, self.errors)


def search(
    problem: Problem,
    method: str = "ddpg",
    *,
    seed: int = 0,
    settings: Settings | None = None,
    policy: Policy | None = None,
    known: Sequence[Strategy] = (),
    measure: Callable[[Sequence[Strategy]], Sequence[Outcome]] | None = None,
    walks: int = 1,
    on_learn: OnLearn = lambda logged: None,
) -> Found:
    """Finds the strategy of highest reward within the budget.

    Args:
        problem: network and budget.
        method: one of `METHODS`.
        seed: of everything random.
        settings: of an agent.
        policy: learned elsewhere; an agent of its form goes on from it, without a warm-up.
        known: strategies that an agent tries first, after the uniform one and the policy's own.
        measure: outcomes of several strategies at once.
        walks: strategies that an agent walks side by side under one policy, which learns from all
            of them afterwards.
        on_learn: called with what SB3 logged, after an agent has learned from an episode.
    """
    trials = problem.trials
    if method in PROPOSALS:
        follow(PROPOSALS[method](problem.budget, seed, problem.errors), trials)
        return Found(trials.best, tuple(trials.history), None)

    def look_ahead(strategies: Sequence[Strategy]) -> None:
        if measure:
            trials.look_ahead(strategies, measure)

    env = problem.env()
    first, *others = starts(problem.budget, problem.errors)
    shown = [problem.budget.actions(first)]
    if policy:
        shown.append(problem.budget.actions(proposed(policy, problem.budget, problem.errors)))
    shown += [problem.budget.actions(strategy) for strategy in (*known, *others)]
    if policy:
        settings = replace(
            settings or Settings(), net_arch=policy.net_arch, warmup_episodes=len(shown)
        )
    walked = SideBySide(problem.env, walks, look_ahead) if walks > 1 else env
    memory = Memory([problem])
    agent = AGENTS[method](walked, settings, shown, lambda rng: memory.suggest(0, rng), seed)
    if policy:
        agent.take_over(policy)
    with suppress(Enough):
        while trials.left > walks or not trials.history:
            agent.learn_episodes(1)
            on_learn(agent.logger.name_to_value)
        walk(agent, problem.env())
    return Found(trials.best, tuple(trials.history), agent)


def learn(
    problems: Sequence[Problem],
    method: str = "ddpg",
    *,
    seed: int = 0,
    settings: Settings | None = None,
    on_learn: OnLearn = lambda logged: None,
) -> list[Found]:
    """One agent for several budgets and networks, which it walks in turn.

    Every problem ends with the walk of the finished policy, without noise.

    Args:
        problems: with trials of the same number of episodes.
        method: one of `AGENTS`.
        seed: of everything random.
        settings: of the agent.
        on_learn: called with what SB3 logged, after the agent has learned from an episode.
    """
    rotation, memory = Rotation([problem.env() for problem in problems]), Memory(problems)
    first = [(problem.budget, starts(problem.budget, problem.errors)) for problem in problems]
    shown = [budget.actions(some[0]) for budget, some in first]  # in turn, as problems are walked
    if any(len(some) > 1 for _, some in first):
        shown += [budget.actions(some[-1]) for budget, some in first]
    agent = AGENTS[method](
        rotation, settings, shown, lambda rng: memory.suggest(rotation.current, rng), seed
    )
    with suppress(Enough):
        while any(problem.trials.left > 1 or not problem.trials.history for problem in problems):
            agent.learn_episodes(1)
            on_learn(agent.logger.name_to_value)
        for problem in problems:
            walk(agent, problem.env())
    return [
        Found(t.trials.best, tuple(t.trials.history), agent) for t in problems if t.trials.history
    ]


class Memory:
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


def starts(budget: Budget, errors: Errors | None) -> list[dict[str, int]]:
    """Strategies that need no search: the uniform one and, of the errors, the greedy one."""
    found = [uniform(budget, errors)]
    if errors and (other := greedy(budget, errors)) not in found:
        found.append(other)
    return found


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


def proposed(policy: Any, budget: Budget, errors: Errors | None) -> dict[str, int]:
    """The strategy that a policy walks to; nothing is evaluated."""
    nothing = Outcome(Score(0.0, 0.0, 0), 0, 0)
    info = walk(policy, ChannelPruningEnv(budget, lambda strategy: nothing, errors=errors))
    strategy: dict[str, int] = info["strategy"]
    return strategy
