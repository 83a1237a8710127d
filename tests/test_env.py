"""The environment against its definition, rewards, and the search that walks it."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from torch import Tensor, nn

import amc
from agents import AmcDDPG
from amc.allocate import uniform
from amc.budget import Budget
from amc.compress import Compressor, calibrate
from amc.evaluate import Score, evaluate
from amc.graph.groups import ChannelGraph
from amc.metric import SELECTORS
from amc.plan import Strategy
from amc.search import GREEDY, Episode, Found, proxy, search, walk
from amc.solve.stats import Sampling
from envs import REWARDS, ChannelPruningEnv, Outcome
from envs.features import NAMES
from envs.rewards import UNCONSTRAINED

Network = Callable[[], nn.Module]


class Small(nn.Module):
    """On images of 8 x 6: MACs 1296 a + 108 a b + 12 b f + 4 f for a, b, f channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)  # 48 positions x 27
        self.b = nn.Conv2d(8, 6, 3, stride=2, padding=1)  # 12 positions x 9
        self.f, self.g = nn.Linear(72, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.g(F.relu(self.f(x.flatten(1))))


def macs(a: int = 8, b: int = 6, f: int = 10) -> int:
    return 1296 * a + 108 * a * b + 12 * b * f + 4 * f


class Branches(nn.Module):
    """Two decisions whose channels meet in the same layer, and one with two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.mix, self.extra = nn.Conv2d(10, 5, 1), nn.Conv2d(5, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mix(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)))
        return self.fc(F.relu(x + self.extra(x)).mean((2, 3)))


def chain() -> nn.Module:
    """Four decisions with many allowed counts: something to search in."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(32 * 8, 20), nn.ReLU(), nn.Linear(20, 4),
    )  # fmt: skip


@cache
def graph_of(kind: Network) -> ChannelGraph:
    torch.manual_seed(0)
    return amc.trace(kind(), (torch.randn(2, 3, 8, 6),))


def budget_of(ratio: float = 0.5, kind: Network = Small) -> Budget:
    return Budget(graph_of(kind), ratio)


def cheap(budget: Budget) -> Callable[[Strategy], Outcome]:
    """An outcome without a network: best where the later groups are wide."""
    weights = np.arange(1, len(budget.options) + 1) / len(budget.options)

    def outcome(strategy: Strategy) -> Outcome:
        counts = budget.graph.counts(strategy)
        parts = counts / [g.size for g in budget.graph.decisions]
        score = float(1 - np.mean((parts - weights) ** 2))
        return Outcome(
            Score(score, 1 - score, 10),
            budget.graph.cost.macs(counts),
            budget.graph.cost.params(counts),
        )

    return outcome


def environment(ratio: float = 0.5, kind: Network = Small) -> ChannelPruningEnv:
    budget = budget_of(ratio, kind)
    return ChannelPruningEnv(budget, cheap(budget))


@cache
def calibrated() -> tuple[nn.Module, ChannelGraph, Compressor, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = Small().eval()
    graph = amc.trace(model, (torch.randn(2, 3, 8, 6),))
    images = torch.randn(64, 3, 8, 6)
    with torch.no_grad():
        batches = [(images, model(images).argmax(dim=1))]
    stats = calibrate(graph, model, batches, Sampling(0))
    return model, graph, Compressor(graph, model, stats, SELECTORS["lasso"]), batches


def real() -> ChannelPruningEnv:
    """With a network behind it."""
    _, graph, compressor, batches = calibrated()
    return ChannelPruningEnv(Budget(graph, 0.5), proxy(compressor, batches), REWARDS["loss"])


# Interface


# there is nothing to render
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes:UserWarning")
def test_environment_passes_the_checks_of_gymnasium() -> None:
    check_env(real())


# it would rather have symmetric actions; preserve ratios are not, and `agents` scales them
@pytest.mark.filterwarnings("ignore:We recommend you to use a symmetric:UserWarning")
def test_environment_passes_the_checks_of_stable_baselines() -> None:
    check_env_of_sb3(real())


def test_environment_can_be_made_by_its_name() -> None:
    budget = budget_of()
    env = gymnasium.make("amc/ChannelPruning-v0", budget=budget, evaluate=cheap(budget))
    assert isinstance(env.unwrapped, ChannelPruningEnv)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    for last in (False, False, True):
        observation, _, done, cut, _ = env.step(np.array([0.5], dtype=np.float32))
        assert (done, cut) == (last, False)


def test_spaces_are_those_of_the_docstring() -> None:
    env = environment()
    assert env.observation_space == gymnasium.spaces.Box(0, 1, (11,), np.float32)
    assert env.action_space == gymnasium.spaces.Box(0, 1, (1,), np.float32)
    assert len(NAMES) == 11
    rows = [line.split("|") for line in ChannelPruningEnv.__doc__.splitlines() if "|" in line]
    documented = [name.strip() for row in rows[2:] for name in row[2].split(",")]
    assert documented == list(NAMES)


# Observations


def test_observations_are_those_computed_by_hand_at_every_step() -> None:
    """Readers: b 8 -> 6, 3 x 3, stride 2, on 8 x 6; f 72 -> 10; g 10 -> 4."""
    env = environment()
    total = macs()
    assert env.budget.original == total == 10368 + 5184 + 720 + 40
    constant = [
        # index, out (6 10 4), in (8 72 10), h (8 1 1), w (6 1 1), stride (2 1 1), kernel (3 1 1)
        [0, 2 / 6, 0, 1, 1, 1, 1, 1],
        [1 / 2, 1, 1, 0, 0, 0, 0, (720 - 40) / (5184 - 40)],
        [1, 0, 2 / 64, 0, 0, 0, 0, 0],
    ]
    rng = np.random.default_rng(0)
    for _ in range(5):
        observation, _ = env.reset()
        walked: list[np.ndarray] = [observation]
        for _ in range(3):
            observation, *_, info = env.step(rng.random(1, dtype=np.float32))
            walked.append(observation)
        a, b, f = (env._decided[i] for i in range(3))
        assert info["strategy"]["a"] >= a
        moving = [
            [0, (5184 + 720 + 40) / total, 1],
            [1 - macs(a) / total, (720 + 40) / total, a / 8],
            [1 - macs(a, b) / total, 40 / total, b / 6],
            [1 - macs(a, b, f) / total, 0, f / 10],
        ]
        for t, seen in enumerate(walked):
            expected = constant[min(t, 2)] + moving[t]
            np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-7)
            assert seen.dtype == np.float32
            assert env.observation_space.contains(seen)


def test_rest_of_a_walk_counts_the_widths_that_were_decided() -> None:
    """After a, layer b still has to be decided on 6 outputs; g depends on f alone."""
    budget = Budget(graph_of(Branches), 0.6)
    env = ChannelPruningEnv(budget, cheap(budget))
    first, _ = env.reset()
    total = 48 * (12 + 18 + 50 + 25) + 20
    assert budget.original == total
    assert [g.readers[0] for g in budget.graph.decisions] == ["mix", "mix", "extra"]
    # mix and all behind it; both branches are read by mix, which counts once
    assert first[NAMES.index("rest")] == pytest.approx((48 * (50 + 25) + 20) / total, rel=1e-6)
    observation, *_ = env.step(np.array([0.3], dtype=np.float32))
    (a,) = env._decided
    assert a < 4
    rest, reduced = observation[NAMES.index("rest")], observation[NAMES.index("reduced")]
    assert rest == pytest.approx((48 * (5 * (a + 6) + 25) + 20) / total, rel=1e-6)
    assert reduced == pytest.approx(48 * (3 + 5) * (4 - a) / total, rel=1e-6)


def test_single_decision_has_constant_facts_of_zero() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    budget = Budget(amc.trace(model, (torch.zeros(2, 4),)), 0.5)
    env = ChannelPruningEnv(budget, cheap(budget))
    observation, _ = env.reset()
    np.testing.assert_allclose(observation, [0] * 8 + [0, 12 / 36, 1], rtol=1e-6)
    _, _, done, _, info = env.step(np.array([1.0], dtype=np.float32))
    assert done and info["strategy"] == {"0": 3}


# Walks


@pytest.mark.parametrize("kind", [Small, Branches])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8, 1.0])
def test_random_walks_always_end_within_the_budget(kind: Network, ratio: float) -> None:
    env, rng = environment(ratio, kind), np.random.default_rng(0)
    for episode in range(50):
        observation, info = env.reset()
        assert info == {}
        for t in range(len(env.budget.options)):
            assert env.observation_space.contains(observation)
            action = [rng.random(), 0.0, 1.0][min(episode, 2) if episode < 3 else 0]
            sent = np.array([action], dtype=np.float32)
            observation, reward, done, cut, info = env.step(sent)
            assert done == (t == len(env.budget.options) - 1) and not cut
        assert env.observation_space.contains(observation)
        outcome = info["outcome"]
        assert outcome.macs <= ratio * env.budget.original
        assert env.budget.allows(info["strategy"])
        assert info["strategy"].keys() == env.budget.graph.sizes.keys()
        assert reward == outcome.score.accuracy


def test_reward_and_result_come_at_the_end_only_and_cost_one_evaluation() -> None:
    budget, asked = budget_of(), list[Strategy]()

    def outcome(strategy: Strategy) -> Outcome:
        asked.append(strategy)
        return cheap(budget)(strategy)

    env = ChannelPruningEnv(budget, outcome, lambda o: 7.0)
    for episode in range(2):
        env.reset()
        for t in range(3):
            _, reward, done, _, info = env.step(np.array([0.2], dtype=np.float32))
            executed = info["executed_action"]
            assert executed.shape == (1,) and executed.dtype == np.float32
            assert 0 <= executed[0] <= 1
            if t < 2:
                assert (reward, done, len(asked)) == (0.0, False, episode)
                assert info.keys() == {"executed_action"}
        assert (reward, done, len(asked)) == (7.0, True, episode + 1)
        assert isinstance(reward, float)
        assert info.keys() == {"executed_action", "strategy", "outcome"}
        assert info["strategy"] == asked[-1]
        assert info["outcome"] == cheap(budget)(info["strategy"])


def test_executed_action_repeats_the_walk() -> None:
    env, rng = environment(), np.random.default_rng(1)
    for _ in range(20):
        sent, executed = rng.random((3, 1), dtype=np.float32), []
        env.reset()
        for action in sent:
            *_, first = env.step(action)
            executed.append(first["executed_action"])
        env.reset()
        for action in executed:
            *_, second = env.step(action)
        assert first["strategy"] == second["strategy"]


def test_half_everywhere_is_the_uniform_strategy() -> None:
    for kind in (Small, Branches):
        for ratio in (0.35, 0.5, 0.8):
            env = environment(ratio, kind)
            env.reset()
            for _ in env.budget.options:
                *_, info = env.step(np.array([0.5], dtype=np.float32))
            assert info["strategy"] == uniform(env.budget)


def test_walk_forgets_the_one_before() -> None:
    env = environment()
    first, _ = env.reset()
    env.step(np.array([0.0], dtype=np.float32))
    again, _ = env.reset(seed=3)
    assert np.array_equal(first, again)


# Rewards


def outcome(accuracy: float, loss: float = 1.0, macs: int = 10, params: int = 5) -> Outcome:
    return Outcome(Score(accuracy, loss, 100), macs, params)


def test_rewards_have_the_published_values() -> None:
    assert REWARDS["accuracy_flops"](outcome(0.9, macs=10**8)) == pytest.approx(-1.8421, abs=1e-4)
    assert REWARDS["accuracy_params"](outcome(0.75, params=1000)) == pytest.approx(
        -0.25 * math.log(1000)
    )
    assert REWARDS["accuracy"](outcome(0.9)) == 0.9
    assert REWARDS["loss"](outcome(0.9, loss=0.3)) == -0.3
    assert set(REWARDS) == {"loss", "accuracy", "accuracy_flops", "accuracy_params"}


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_grow_with_the_score(name: str) -> None:
    assert REWARDS[name](outcome(0.9, loss=0.3)) > REWARDS[name](outcome(0.8, loss=0.6))


def test_rewards_without_a_lower_end_pay_for_smaller_networks() -> None:
    large, small = outcome(0.9, macs=1000, params=500), outcome(0.9, macs=900, params=400)
    for name, reward in REWARDS.items():
        assert (reward(small) > reward(large)) == (name in UNCONSTRAINED)


# Search


def searched(
    seed: int = 0,
    episodes: int = 12,
    reward: Callable[[Outcome], float] = REWARDS["accuracy"],
    warmup: int = 4,
    **more: Any,
) -> Found:
    budget = budget_of(kind=chain)
    return search(
        budget, cheap(budget), reward, episodes=episodes, warmup_episodes=warmup, seed=seed, **more
    )


def test_first_episode_is_uniform_and_the_last_is_the_policy_without_noise() -> None:
    found = searched()
    assert [e.number for e in found.history] == [*range(12), GREEDY]
    assert found.history[0].strategy == uniform(budget_of(kind=chain))
    again = walk(found.agent, environment(kind=chain))
    assert again["strategy"] == found.history[-1].strategy
    assert isinstance(found.agent, AmcDDPG)


def test_best_is_the_highest_reward_of_all_feasible_episodes() -> None:
    found = searched()
    rewards = [e.reward for e in found.history]
    assert found.best.reward == max(rewards) > found.history[0].reward
    assert found.best in found.history
    assert [e.best for e in found.history] == np.maximum.accumulate(rewards).tolist()
    for episode in found.history:
        assert episode.outcome.macs <= budget_of(kind=chain).target
        assert episode.outcome == cheap(budget_of(kind=chain))(episode.strategy)
        assert episode.reward == episode.outcome.score.accuracy


def test_search_repeats_for_a_seed_and_not_for_others() -> None:
    first, second, other = searched(0), searched(0), searched(1)
    assert first.history == second.history and first.best == second.best
    for key, value in first.agent.policy.state_dict().items():
        assert torch.equal(value, second.agent.policy.state_dict()[key])
    assert [e.strategy for e in first.history] != [e.strategy for e in other.history]


def test_search_repeats_whatever_the_evaluation_does_to_the_global_generators() -> None:
    budget = budget_of(kind=chain)

    def noisy(strategy: Strategy) -> Outcome:
        torch.rand(3)
        np.random.rand(2)
        return cheap(budget)(strategy)

    found = search(
        budget, noisy, REWARDS["accuracy"], episodes=12, warmup_episodes=4, seed=0
    )  # fmt: skip
    assert found.history == searched().history


def test_every_episode_is_reported_when_it_ends() -> None:
    seen: list[Episode] = []
    losses: list[Mapping[str, Any]] = []

    def note(episode: Episode, logged: Mapping[str, Any]) -> None:
        seen.append(episode)
        losses.append(dict(logged))

    found = searched(on_episode=note)
    assert tuple(seen) == found.history
    assert not any("loss" in key for key in losses[0])
    assert any("critic_loss" in key for key in losses[-1])


def test_reward_of_the_user_decides() -> None:
    """Paid for parameters only, the smallest strategy that was tried wins."""
    found = searched(reward=lambda o: -o.params)
    assert found.best.outcome.params == min(e.outcome.params for e in found.history)
    assert found.best.reward == -found.best.outcome.params


@pytest.mark.parametrize(("episodes", "warmup"), [(1, 0), (1, 50), (3, 50), (3, 0)])
def test_short_searches_work(episodes: int, warmup: int) -> None:
    budget = budget_of(kind=chain)
    found = search(
        budget, cheap(budget), REWARDS["loss"], episodes=episodes, warmup_episodes=warmup, seed=0
    )
    assert len(found.history) == episodes + 1
    assert found.history[0].strategy == uniform(budget)


def test_proxy_validates_the_cut_network_once_per_strategy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, graph, compressor, batches = calibrated()
    worth, cuts = proxy(compressor, batches), list[Strategy]()
    whole = worth({})
    assert whole.score.accuracy == 1.0  # the labels are the original's predictions
    assert (whole.macs, whole.params) == (graph.macs(), graph.total_params)
    strategy = {"a": 4, "b": 3, "f": 5}
    found = worth(strategy)
    cut = compressor.cut(strategy)
    assert found.score == evaluate(cut, batches)
    assert found.params == sum(p.numel() for p in cut.parameters())
    assert found.macs == macs(4, 3, 5)
    monkeypatch.setattr(compressor, "cut", cuts.append)
    assert worth(strategy) is found
    assert worth(dict(graph.sizes)) is whole
    assert cuts == []


@pytest.mark.slow
def test_episodes_after_training_are_better_than_those_of_the_warmup() -> None:
    for seed in range(5):
        rewards = [e.reward for e in searched(seed, episodes=150, warmup=30).history]
        assert (
            np.mean(rewards[-30:]) > np.mean(rewards[1:30]) + 2 * np.std(rewards[1:30]) / 30**0.5
        )
