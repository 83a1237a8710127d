"""Searches of every method: within the budget, repeatable, suggested, reported."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import amc
from agents import AGENTS, Settings
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.proposals.variations import Tried, Variations
from amc.search.problem import Found, Problem, starts, walk
from amc.search.search import METHODS, search
from amc.search.trials import Limits, Trials
from envs import REWARDS, Outcome
from envs.outcome import Episode
from small_problems import (
    budget_of,
    chain,
    cheap,
    environment,
    walked,
)

# Search


def searched(
    method: str = "ddpg",
    seed: int = 0,
    episodes: int = 12,
    reward: Callable[[Outcome], float] = REWARDS["accuracy"],
    warmup: int = 4,
    elite: float = 0.9,
    evaluate: Callable[[Strategy], Outcome] | None = None,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    **more: Any,
) -> Found:
    budget = budget_of(kind=chain)
    evaluate = evaluate or cheap(budget)
    trials = Trials(
        evaluate, reward, Limits(episodes), on_episode=on_episode, allows=budget.allows
    )
    settings = Settings(net_arch=(16, 16), warmup_episodes=warmup, elite=elite)
    return search(Problem(budget, trials), method, seed=seed, settings=settings, **more)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("episodes", "warmup"), [(1, 0), (1, 50), (2, 0), (3, 50), (6, 1), (25, 10)]
)
def test_every_method_tries_as_many_strategies_as_it_may_all_within_the_budget(
    method: str, episodes: int, warmup: int
) -> None:
    budget, asked = budget_of(kind=chain), list[Strategy]()

    def outcome(strategy: Strategy) -> Outcome:
        asked.append(dict(strategy))
        return cheap(budget)(strategy)

    found = searched(method, episodes=episodes, warmup=warmup, evaluate=outcome)
    assert len(asked) == len(found.history)
    assert len(asked) == episodes or (method == "greedy" and len(asked) < episodes == 3)
    assert [e.strategy for e in found.history] == asked
    assert [e.number for e in found.history] == list(range(len(asked)))
    assert asked[0] == uniform(budget)
    for episode in found.history:
        assert (episode.outcome.macs > budget.target) == episode.probe
        assert not episode.probe or method == "greedy"
        assert episode.strategy.keys() == budget.graph.sizes.keys()
        for options, count in zip(budget.options, episode.strategy.values(), strict=True):
            assert count in options
    assert (found.agent is None) == (method not in AGENTS)
    if found.agent is not None:
        assert type(found.agent) is AGENTS[method]
    if episodes > 10:
        assert len({tuple(s.values()) for s in asked}) > episodes // 2


@pytest.mark.parametrize("method", METHODS)
def test_search_repeats_for_a_seed_and_not_for_others(method: str) -> None:
    first, second, other = (searched(method, seed) for seed in (0, 0, 1))
    assert first.history == second.history and first.best == second.best
    if first.agent is not None and second.agent is not None:
        for key, value in first.agent.policy.state_dict().items():
            assert torch.equal(value, second.agent.policy.state_dict()[key])
    others = [e.strategy for e in other.history]
    assert ([e.strategy for e in first.history] == others) == (method == "greedy")  # no chance


@pytest.mark.parametrize("method", METHODS)
def test_search_repeats_whatever_the_evaluation_does_to_the_global_generators(
    method: str,
) -> None:
    budget = budget_of(kind=chain)

    def noisy(strategy: Strategy) -> Outcome:
        torch.rand(3)
        np.random.rand(2)
        return cheap(budget)(strategy)

    assert searched(method, evaluate=noisy).history == searched(method).history


@pytest.mark.parametrize("method", AGENTS)
def test_last_episode_is_the_policy_without_noise(method: str) -> None:
    found = searched(method)
    again = walk(found.agent, environment(kind=chain))
    assert again["strategy"] == found.history[-1].strategy
    assert found.agent is not None and found.agent.exploration.episode == 11


@pytest.mark.parametrize("method", METHODS)
def test_best_is_the_highest_reward_of_all_episodes(method: str) -> None:
    found = searched(method)
    rewards = [-np.inf if e.probe else e.reward for e in found.history]
    assert found.best.reward == max(rewards)
    assert found.best.number == int(np.argmax(rewards))  # the first of equals
    assert found.best in found.history
    assert [e.best for e in found.history] == np.maximum.accumulate(rewards).tolist()
    for episode in found.history:
        assert episode.outcome == cheap(budget_of(kind=chain))(episode.strategy)
        assert episode.reward == episode.outcome.score.accuracy


@pytest.mark.parametrize("method", AGENTS)
@pytest.mark.parametrize("walks", [1, 3])
def test_an_agent_is_suggested_variations_of_all_that_was_tried(
    method: str, walks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Screened by the errors, once the first are shown; of what was tried before the round."""
    budget = budget_of(kind=chain)
    pairs = zip(budget.graph.decisions, budget.options, strict=True)
    errors = {group.name: (1 - options / group.size) ** 2 for group, options in pairs}
    asked: list[tuple[list[Tried], Strategy]] = []

    class Watched(Variations):
        def __call__(self, known: Sequence[Tried], rng: np.random.Generator) -> dict[str, int]:
            assert (self.budget, self.errors) == (budget, errors)
            asked.append((list(known), super().__call__(known, rng)))
            return dict(asked[-1][1])

    monkeypatch.setattr("amc.search.suggestions.Variations", Watched)
    trials = Trials(cheap(budget), REWARDS["accuracy"], Limits(13))
    settings = Settings(net_arch=(16, 16), warmup_episodes=4, elite=1.0)
    found = search(Problem(budget, trials, errors), method, settings=settings, walks=walks)
    history, first = found.history, found.history[0].reward
    shown = starts(budget, errors)
    assert [episode.strategy for episode in history[: len(shown)]] == shown
    for number, (known, suggested) in enumerate(asked, start=len(shown)):
        earlier = history[: number // walks * walks]
        if not earlier:  # nothing is known in the first round: the uniform strategy stands in
            assert [one.reward for one in known] == [0.0]
            continue
        gains = [(e.reward - first) / abs(first) for e in earlier]
        most = max(gains) if max(gains) > 0 else 1.0
        assert [one.reward for one in known] == [one / most for one in gains]
        assert {one.apart for one in known} == {0.0}
        kept = [budget.graph.counts(e.strategy) / budget.graph.counts({}) for e in earlier]
        assert np.array_equal([one.ratios for one in known], kept)
        assert history[number].strategy == walked(budget, np.array(budget.actions(suggested)))
    assert len(asked) == 12 - len(shown)  # all but the one without noise


@pytest.mark.parametrize("method", AGENTS)
@pytest.mark.parametrize(("episodes", "walks"), [(12, 3), (11, 3), (2, 3), (1, 2), (13, 4)])
def test_side_by_side_a_search_never_exceeds_its_episodes(
    method: str, episodes: int, walks: int
) -> None:
    rounds: list[list[Strategy]] = []
    budget = budget_of(kind=chain)

    def measure(strategies: Sequence[Strategy]) -> list[Outcome]:
        rounds.append([dict(s) for s in strategies])
        return [cheap(budget)(s) for s in strategies]

    found = searched(method, episodes=episodes, walks=walks, measure=measure)
    tried = [e.strategy for e in found.history]
    full = max(1, (episodes - 1) // walks)  # rounds; what is left of the last one is not walked
    assert len(rounds) == full and all(len(r) == walks for r in rounds)
    assert len(tried) == min(episodes, full * walks + 1)
    assert tried[: full * walks] == [s for r in rounds for s in r][: len(tried)]
    assert tried[0] == uniform(budget)
    if episodes > walks:
        assert walk(found.agent, environment(kind=chain))["strategy"] == tried[-1]


def test_every_episode_is_reported_when_it_ends_and_then_what_was_learned_from_it() -> None:
    seen: list[Episode] = []
    learned: list[tuple[int, Mapping[str, Any]]] = []
    found = searched(
        on_episode=seen.append, on_learn=lambda logged: learned.append((len(seen), dict(logged)))
    )
    assert tuple(seen) == found.history
    assert [number for number, _ in learned] == list(range(1, 12))  # all but the one without noise
    with_losses = [any("critic_loss" in key for key in logged) for _, logged in learned]
    assert with_losses == [False] * 4 + [True] * 7  # four episodes of warm-up


@pytest.mark.parametrize("method", METHODS)
def test_reward_of_the_user_decides(method: str) -> None:
    """Paid for parameters only, the smallest strategy that was tried wins."""
    found = searched(method, reward=lambda o: -o.params)
    assert found.best.outcome.params == min(e.outcome.params for e in found.history if not e.probe)
    assert found.best.reward == -found.best.outcome.params


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_not_finite_is_refused(method: str, value: float) -> None:
    calls = itertools.count()

    def reward(outcome: Outcome) -> float:
        return value if next(calls) > 8 else outcome.score.accuracy

    with pytest.raises(amc.AmcError, match=f"the reward is {value}.* must be finite") as refused:
        searched(method, reward=reward)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("method", AGENTS)
def test_the_policy_without_noise_is_nearly_as_good_as_the_best_that_was_tried(
    method: str,
) -> None:
    """Of what the best strategy gains over the uniform one, three quarters and mostly all."""
    for seed in range(5):
        rewards = [e.reward for e in searched(method, seed, episodes=150, warmup=30).history]
        standard, policy = rewards[0], rewards[-1]
        assert policy > standard + 0.75 * (max(rewards) - standard)


@pytest.mark.slow
@pytest.mark.parametrize("method", AGENTS)
def test_an_agents_own_episodes_are_better_than_random_walks(method: str) -> None:
    """Without suggestions: these are good from the first, and new ones lie ever farther off."""
    for seed in range(5):
        found = searched(method, seed, episodes=150, warmup=30, elite=0.0)
        rewards = [episode.reward for episode in found.history]
        by_chance, own = rewards[1:30], rewards[-30:]
        assert np.mean(own) > np.mean(by_chance) + 2 * np.std(by_chance) / len(by_chance) ** 0.5
        assert np.mean(own) > rewards[0]
