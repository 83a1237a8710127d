"""The search: an agent walks the environment, the best strategy within the budget wins."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from agents import AGENTS
from agents import Policy as Policy  # for those who call `search`
from agents import Settings as Settings
from amc.allocators.family import Shape
from amc.allocators.problem import AllocationProblem, Proposals
from amc.graph.plan import Strategy
from amc.proposals import PROPOSALS
from amc.search.policies import prior_of
from amc.search.prior import Prior, Recalled, begun
from amc.search.problem import Found, Problem, proposed, starts, walk
from amc.search.suggestions import Suggestions
from amc.search.trials import LimitReached, Trials
from envs import Outcome, Rotation, SideBySide

METHODS = (*AGENTS, *PROPOSALS)
OnLearn = Callable[[Mapping[str, Any]], None]


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
    proposals: Proposals | None = None,
    prior: Prior = "uniform",
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
        proposals: strategies that are tried instead of those of a method.
        prior: what an agent's actions are residuals on; a policy brings its own.
    """
    trials = problem.trials
    if proposals is None and method in PROPOSALS:
        episodes, errors = trials.limits.episodes, problem.errors or {}
        asked = AllocationProblem(problem.budget, errors, seed=seed, episodes=episodes)
        proposals = proposed_by(PROPOSALS[method](asked))
    if proposals is not None:
        follow(proposals, trials)
        return Found(trials.best, tuple(trials.history), None)

    known_shape = prior_of(policy) if policy else None
    (problem,), shape = begun([problem], "uniform" if policy else prior, known_shape, seed)
    recalled = problem.evaluate

    def look_ahead(strategies: Sequence[Strategy]) -> None:
        if measure:
            assert isinstance(recalled, Recalled)
            trials.look_ahead(recalled.new(strategies), measure)

    env = problem.env()
    shown = shown_first(problem, shape, policy, known)
    if policy:
        settings = replace(
            settings or Settings(), net_arch=policy.net_arch, warmup_episodes=len(shown)
        )
    walked = SideBySide(problem.env, walks, look_ahead) if walks > 1 else env
    suggestions = Suggestions([problem])
    agent = AGENTS[method](walked, settings, shown, lambda rng: suggestions.suggest(0, rng), seed)
    if policy:
        agent.take_over(policy)
    with suppress(LimitReached):
        while trials.left > walks or not trials.history:
            agent.learn_episodes(1)
            on_learn(agent.logger.name_to_value)
        walk(agent, problem.last())
    return Found(trials.best, tuple(trials.history), agent, shape)


def shown_first(
    problem: Problem, shape: Shape | None, policy: Policy | None, known: Sequence[Strategy]
) -> list[list[float]]:
    """Actions of the first episodes: what was tried, or uniform, the prior; then what is known."""
    budget, tried = problem.budget, [episode.strategy for episode in problem.trials.history]
    first, *others = starts(budget, problem.errors)
    shown = [budget.actions(strategy) for strategy in tried or [first]]
    if shape is not None and not tried and not policy:
        shown.append([0.5] * len(budget.options))
    if policy:
        shown.append(budget.actions(proposed(policy, budget, problem.errors)))
    return shown + [budget.actions(one) for one in (*known, *others) if one not in tried]


def learn(
    problems: Sequence[Problem],
    method: str = "ddpg",
    *,
    seed: int = 0,
    settings: Settings | None = None,
    on_learn: OnLearn = lambda logged: None,
    prior: Prior = "uniform",
) -> list[Found]:
    """One agent for several budgets and networks, which it walks in turn.

    Every problem ends with the walk of the finished policy, without noise.

    Args:
        problems: with trials of the same number of episodes.
        method: one of `AGENTS`.
        seed: of everything random.
        settings: of the agent.
        on_learn: called with what SB3 logged, after the agent has learned from an episode.
        prior: what the agent's actions are residuals on; `cem` searches numbers for all together.
    """
    problems, shape = begun(problems, prior, None, seed)
    rotation = Rotation([problem.env() for problem in problems])
    suggestions = Suggestions(problems)
    shown = shown_in_turn(problems, shape)
    agent = AGENTS[method](
        rotation, settings, shown, lambda rng: suggestions.suggest(rotation.current, rng), seed
    )
    with suppress(LimitReached):
        while any(problem.trials.left > 1 or not problem.trials.history for problem in problems):
            agent.learn_episodes(1)
            on_learn(agent.logger.name_to_value)
        for problem in problems:
            walk(agent, problem.last())
    return [
        Found(t.trials.best, tuple(t.trials.history), agent, shape)
        for t in problems
        if t.trials.history
    ]


def shown_in_turn(problems: Sequence[Problem], shape: Shape | None) -> list[list[float]]:
    """Actions of the first episodes, one of every problem after the other."""
    budgets = [problem.budget for problem in problems]
    known = [starts(problem.budget, problem.errors) for problem in problems]
    histories = [[one.strategy for one in problem.trials.history] for problem in problems]
    rounds = [list(row) for row in zip(*histories, strict=True)] or [[some[0] for some in known]]
    shown = [b.actions(s) for row in rounds for b, s in zip(budgets, row, strict=True)]
    if shape is not None and not histories[0]:
        shown += [[0.5] * len(budget.options) for budget in budgets]
    if any(len(some) > 1 for some in known):
        shown += [b.actions(some[-1]) for b, some in zip(budgets, known, strict=True)]
    return shown


def proposed_by(answer: Strategy | Proposals | None) -> Proposals | None:
    """What an allocator proposes; the one strategy of an allocator that knows it at once."""
    return _alone(answer) if isinstance(answer, Mapping) else answer


def _alone(strategy: Strategy) -> Proposals:
    yield strategy


def follow(proposals: Proposals, trials: Trials) -> None:
    """Tries what is proposed until it is enough, or there is nothing more."""
    with suppress(LimitReached, StopIteration):
        strategy = next(proposals)
        while True:
            trials(strategy)
            strategy = proposals.send(trials.history[-1].reward)
