"""The environment against its definition."""

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from torch import nn

import amc
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.search.evaluator import evaluator
from envs import REWARDS, ChannelPruningEnv, Outcome
from envs.features import NAMES
from small_problems import (
    Branches,
    Network,
    Small,
    budget_of,
    calibrated,
    cheap,
    environment,
    graph_of,
    macs,
    walked,
)


def real() -> ChannelPruningEnv:
    """With a network behind it."""
    _, graph, compressor, batches = calibrated()
    return ChannelPruningEnv(Budget(graph, 0.5), evaluator(compressor, batches), REWARDS["loss"])


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
    assert env.observation_space == gymnasium.spaces.Box(0, 1, (15,), np.float32)
    assert env.action_space == gymnasium.spaces.Box(0, 1, (1,), np.float32)
    assert len(NAMES) == 15
    rows = [line.split("|") for line in ChannelPruningEnv.__doc__.splitlines() if "|" in line]
    documented = [name.strip() for row in rows[2:] for name in row[2].split(",")]
    assert documented == list(NAMES)


# Observations


def share_of(*decided: int) -> float:
    """The largest ratio of which the groups of `Small` that are left may keep the nearest count.

    Half of the MACs stay, and every group keeps one channel or more.
    """
    fits = [0.0]
    for ratio in np.linspace(0, 1, 5001):
        left = [max(1, round(ratio * size)) for size in (8, 6, 10)[len(decided) :]]
        if macs(*decided, *left) <= macs() // 2:
            fits.append(ratio)
    return max(fits)


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
            [0, (5184 + 720 + 40) / total, 1, 0.5, share_of()],
            [1 - macs(a) / total, (720 + 40) / total, a / 8, 0.5, share_of(a)],
            [1 - macs(a, b) / total, 40 / total, b / 6, 0.5, share_of(a, b)],
            [1 - macs(a, b, f) / total, 0, f / 10, 0.5, 1],
        ]
        for t, seen in enumerate(walked):
            expected = [*constant[min(t, 2)], *moving[t], 0.5, 0.5]
            np.testing.assert_allclose(np.delete(seen, 12), np.delete(expected, 12), rtol=1e-6)
            assert seen[12] == pytest.approx(expected[12], abs=3e-4)
            assert seen.dtype == np.float32
            assert env.observation_space.contains(seen)


def test_errors_are_seen_at_the_uniform_strategy_and_against_the_other_groups() -> None:
    """Of a, b and f: the error, and what a MAC more would save, x / (x + median)."""
    budget, sizes = budget_of(), {"a": 8, "b": 6, "f": 10}
    curves = {"a": lambda part: 3 * (1 - part), "b": lambda part: (1 - part) ** 2,
              "f": lambda part: 7 / (0.1 + part)}  # fmt: skip
    pairs = zip(sizes.items(), budget.options, strict=True)
    errors = {name: curves[name](options / size) for (name, size), options in pairs}
    at = {name: share_of() * size for name, size in sizes.items()}
    error, gain = [], []
    for name, options in zip(sizes, budget.options, strict=True):
        steps = [{**at, name: at[name] + step} for step in (-1, 1)]
        before, after = (np.interp(widths[name], options, errors[name]) for widths in steps)
        less, more = (macs(*map(round, widths.values())) for widths in steps)
        error.append(np.interp(at[name], options, errors[name]))
        gain.append((before - after) / (more - less))
    expected = [np.array(x) / (np.array(x) + np.median(x)) for x in (error, gain)]
    for factor in (1.0, 1e-6, 1e6):  # in any unit
        scaled = {name: factor * found for name, found in errors.items()}
        env = ChannelPruningEnv(budget, cheap(budget), errors=scaled)
        seen = [env.reset()[0]]
        seen += [env.step(np.array([0.3], dtype=np.float32))[0] for _ in sizes]
        found = np.array(seen)[:, -2:].T
        np.testing.assert_allclose(found[:, :3], expected, rtol=1e-2)
        assert np.array_equal(found[:, 3], found[:, 2])
        assert (np.sort(found[:, :3])[:, 1] == 0.5).all()


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
    np.testing.assert_allclose(
        observation, [0] * 8 + [0, 12 / 36, 1, 0.5, 3.5 / 6, 0.5, 0.5], rtol=1e-4
    )
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


def test_strategy_ahead_is_the_one_that_the_last_step_takes() -> None:
    for kind in (Small, Branches):
        env, rng = environment(0.4, kind), np.random.default_rng(2)
        last = len(env.budget.options) - 1
        for _ in range(20):
            env.reset()
            for t in range(last + 1):
                action = rng.random(1, dtype=np.float32)
                before = list(env._decided)
                ahead = env.ahead(action)
                assert (ahead is None) == (t < last)
                assert env._decided == before  # looking is not stepping
                *_, info = env.step(action)
            assert ahead == info["strategy"]


# The way to a strategy


@pytest.mark.parametrize("kind", [Small, Branches])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("multiple", [1, 2])
def test_actions_lead_to_every_strategy_that_can_be_reached(
    kind: Network, ratio: float, multiple: int
) -> None:
    """All strategies that some walk ends in, found by trying every allowed count at every step."""
    budget = Budget(graph_of(kind), ratio, multiple=multiple)
    reached = list(ends(budget, ()))
    assert len(reached) == len({tuple(s.values()) for s in reached})
    for strategy in reached:
        found = budget.actions(strategy)
        assert all(0 <= action <= 1 for action in found)
        assert walked(budget, found) == strategy
        assert walked(budget, np.array(found, dtype=np.float32)) == strategy  # as agents play it


def ends(budget: Budget, decided: tuple[int, ...]) -> Any:
    if len(decided) == len(budget.options):
        yield budget.strategy(decided)
        return
    fewest, most = budget.range(decided)
    for count in budget.options[len(decided)][fewest : most + 1].tolist():
        yield from ends(budget, (*decided, count))


def test_actions_to_a_strategy_out_of_reach_end_near_it_and_within_the_budget() -> None:
    for kind, ratio in itertools.product((Small, Branches), (0.3, 0.6)):
        budget = budget_of(ratio, kind)
        for strategy in ({}, dict.fromkeys(budget.graph.sizes, 1)):
            env = ChannelPruningEnv(budget, cheap(budget))
            env.reset()
            for action in budget.actions(strategy):
                *_, info = env.step(np.array([action], dtype=np.float32))
            assert budget.allows(info["strategy"])
            assert info["outcome"].macs >= 0.98 * budget.target or kind is Branches
        first = next(iter(budget.graph.sizes))
        widest = budget.options[0][budget.range(())[1]]
        assert walked(budget, budget.actions({}))[first] == widest  # all that may still be kept
