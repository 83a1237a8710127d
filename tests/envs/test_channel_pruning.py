"""The environment against its definition, rewards, and the search that walks it."""

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

import amc
from agents import AGENTS, Settings
from amc.allocators.uniform import uniform
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import Sampling
from amc.config.compare import CompareConfig
from amc.config.train import TrainConfig
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.metrics import METRICS, Evidence
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.search.evaluator import evaluator
from amc.search.problem import Found, Problem, starts, walk
from amc.search.search import METHODS, search
from amc.search.trials import Limits, Trials
from amc.search.variations import Tried, Variations
from amc.tasks.evaluate import TEMPERATURE, Score, evaluate, reference_outputs
from amc.training.short_training import ShortTraining
from envs import REWARDS, ChannelPruningEnv, Outcome, SideBySide
from envs.features import NAMES
from envs.outcome import Episode
from envs.rewards import UNCONSTRAINED
from small_problems import Branches, Network, Small, budget_of, chain, cheap, graph_of, macs


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
    return (
        model,
        graph,
        Compressor(graph, model, stats, partial(METRICS["lasso"], Evidence(graph, model, stats))),
        batches,
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


# Side by side


@pytest.mark.parametrize("walks", [1, 2, 5])
def test_walks_side_by_side_are_walks_of_their_own(walks: int) -> None:
    rng = np.random.default_rng(3)
    together = SideBySide(environment, walks, lambda strategies: None)
    alone = [environment() for _ in range(walks)]
    for _ in range(3):
        seen = together.reset()
        assert np.array_equal(seen, [env.reset()[0] for env in alone])
        for t in range(3):
            actions = rng.random((walks, 1), dtype=np.float32)
            seen, rewards, dones, infos = together.step(actions)
            single = [env.step(a) for env, a in zip(alone, actions, strict=True)]
            assert rewards.tolist() == pytest.approx([s[1] for s in single])
            assert dones.tolist() == [s[2] for s in single] == [t == 2] * walks
            for info, (observation, *_, expected) in zip(infos, single, strict=True):
                for name, value in expected.items():
                    assert info[name] == value, name
                if t == 2:  # the vector starts the next walk at once
                    assert np.array_equal(info["terminal_observation"], observation)
            if t < 2:
                assert np.array_equal(seen, [s[0] for s in single])


def test_all_strategies_are_known_before_the_first_is_measured() -> None:
    events: list[tuple[str, Any]] = []
    budget = budget_of()

    def outcome(strategy: Strategy) -> Outcome:
        events.append(("measured", strategy))
        return cheap(budget)(strategy)

    def look_ahead(strategies: Sequence[Strategy]) -> None:
        events.append(("ahead", list(strategies)))

    walks = SideBySide(lambda: ChannelPruningEnv(budget, outcome), 3, look_ahead)
    rng = np.random.default_rng(0)
    for _ in range(2):
        walks.reset()
        for _ in range(3):
            *_, infos = walks.step(rng.random((3, 1), dtype=np.float32))
        found = [info["strategy"] for info in infos]
        assert events == [("ahead", found), *(("measured", s) for s in found)]
        events.clear()


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


def walked(budget: Budget, actions: Sequence[float]) -> Strategy:
    decided: list[int] = []
    for action in actions:
        decided.append(budget.execute(decided, float(action))[0])
    return budget.strategy(decided)


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


# Rewards


def outcome(
    accuracy: float,
    loss: float = 1.0,
    macs: int = 10,
    params: int = 5,
    divergence: float | None = 0.5,
) -> Outcome:
    return Outcome(Score(accuracy, loss, 100, divergence), macs, params)


def test_rewards_have_the_published_values() -> None:
    assert REWARDS["accuracy_flops"](outcome(0.9, macs=10**8)) == pytest.approx(-1.8421, abs=1e-4)
    assert REWARDS["accuracy_params"](outcome(0.75, params=1000)) == pytest.approx(
        -0.25 * math.log(1000)
    )
    assert REWARDS["accuracy"](outcome(0.9)) == 0.9
    assert REWARDS["loss"](outcome(0.9, loss=0.3)) == -0.3
    assert REWARDS["divergence"](outcome(0.9, divergence=0.125)) == -0.125
    assert set(REWARDS) == {"divergence", "loss", "accuracy", "accuracy_flops", "accuracy_params"}
    assert TrainConfig().reward.reward == CompareConfig().reward.reward == "divergence"


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_grow_with_the_score(name: str) -> None:
    better, worse = outcome(0.9, 0.3, divergence=0.01), outcome(0.8, 0.6, divergence=0.02)
    assert REWARDS[name](better) > REWARDS[name](worse)


def test_divergence_that_is_not_known_is_refused_in_one_line() -> None:
    with pytest.raises(amc.AmcError, match="the original network's predictions are not") as error:
        REWARDS["divergence"](outcome(0.9, divergence=None))
    assert str(error.value).startswith("reward divergence: ") and "\n" not in str(error.value)
    others = [reward for name, reward in REWARDS.items() if name != "divergence"]
    assert all(math.isfinite(reward(outcome(0.9, divergence=None))) for reward in others)


def test_rewards_without_a_lower_end_pay_for_smaller_networks() -> None:
    large, small = outcome(0.9, macs=1000, params=500), outcome(0.9, macs=900, params=400)
    for name, reward in REWARDS.items():
        assert (reward(small) > reward(large)) == (name in UNCONSTRAINED)


# Search


def searched(
    method: str = "ddpg",
    seed: int = 0,
    episodes: int = 12,
    reward: Callable[[Outcome], float] = REWARDS["accuracy"],
    warmup: int = 4,
    evaluate: Callable[[Strategy], Outcome] | None = None,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    **more: Any,
) -> Found:
    budget = budget_of(kind=chain)
    evaluate = evaluate or cheap(budget)
    trials = Trials(evaluate, reward, Limits(episodes), on_episode=on_episode)
    settings = Settings(net_arch=(16, 16), warmup_episodes=warmup)
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
    assert len(asked) == len(found.history) == episodes
    assert [e.strategy for e in found.history] == asked
    assert [e.number for e in found.history] == list(range(episodes))
    assert asked[0] == uniform(budget)
    for episode in found.history:
        assert episode.outcome.macs <= budget.target
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
    assert [e.strategy for e in first.history] != [e.strategy for e in other.history]


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
    rewards = [e.reward for e in found.history]
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

    monkeypatch.setattr("amc.search.search.Variations", Watched)
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
    assert found.best.outcome.params == min(e.outcome.params for e in found.history)
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


# What a strategy is worth


def test_proxy_validates_the_cut_network_once_per_strategy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, graph, compressor, batches = calibrated()
    worth, cuts = evaluator(compressor, batches), list[Strategy]()
    whole = worth({})
    assert whole.score.accuracy == 1.0  # the labels are the original's predictions
    assert whole.score.divergence == pytest.approx(0, abs=1e-6)
    assert (whole.macs, whole.params) == (graph.macs(), graph.total_params)
    strategy = {"a": 4, "b": 3, "f": 5}
    found = worth(strategy)
    cut = compressor.cut(strategy)
    assert found.score == evaluate(cut, batches, reference=reference_outputs(model, batches))
    assert found.score.divergence > 100 * abs(whole.score.divergence)
    assert found.params == sum(p.numel() for p in cut.parameters())
    assert found.macs == macs(4, 3, 5)
    monkeypatch.setattr(compressor, "view", cuts.append)
    assert worth(strategy) is found
    assert worth(dict(graph.sizes)) is whole
    assert cuts == []


class Normed(nn.Module):
    """Batch norm, whose statistics change with the cut, and dropout, which draws when trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.b, self.drop = nn.Conv2d(8, 6, 3), nn.Dropout(0.3)
        self.g = nn.Linear(6 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.norm(self.a(x)))))
        return self.g(self.drop(x.flatten(1)))


@cache
def normed() -> tuple[nn.Module, Compressor, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = Normed().eval()
    graph = amc.trace(model, (torch.randn(2, 3, 8, 6),))
    images = torch.randn(64, 3, 8, 6)
    with torch.no_grad():
        batches = [(x, model(x).argmax(dim=1)) for x in images.split(32)]
    stats = calibrate(graph, model, batches, Sampling(0))
    return (
        model,
        Compressor(graph, model, stats, partial(METRICS["lasso"], Evidence(graph, model, stats))),
        batches,
    )


@torch.no_grad()
def divergence_of(model: nn.Module, original: nn.Module, x: Tensor) -> Tensor:
    """From what the original says about each image, by torch's distributions."""
    ours, reference = (
        Categorical(logits=net(x).double() / TEMPERATURE) for net in (model, original)
    )
    return kl_divergence(reference, ours)


def normalised_by_hand(
    model: nn.Module, original: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Loss and divergence with mean and variance of each batch in place of the running ones.

    The original network keeps its own.
    """
    total, apart, images = 0.0, 0.0, 0
    for x, y in batches:
        with torch.no_grad():
            mapped = model.a(x)
            mean, variance = mapped.mean((0, 2, 3)), mapped.var((0, 2, 3), unbiased=False)
            model.norm.running_mean, model.norm.running_var = mean, variance
            total += float(F.cross_entropy(model(x), y, reduction="sum"))
        apart += float(divergence_of(model, original, x).sum())
        images += len(y)
    return total / images, apart / images


@pytest.mark.parametrize("strategy", [{}, {"a": 3}, {"a": 5, "b": 2}])
def test_proxy_adapts_batch_norm_to_the_validation_images(strategy: Strategy) -> None:
    model, compressor, batches = normed()
    adapted, plain = evaluator(compressor, batches), evaluator(compressor, batches, adapt=False)
    reference, score = reference_outputs(model, batches), adapted(strategy).score
    assert plain(strategy).score == evaluate(
        compressor.cut(strategy), batches, reference=reference
    )
    loss, divergence = normalised_by_hand(compressor.cut(strategy), model, batches)
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert score.divergence == pytest.approx(divergence, rel=1e-3, abs=1e-7)
    assert adapted(strategy).score != plain(strategy).score


def test_quick_tuning_is_worth_something_and_repeats_whatever_was_tried_before() -> None:
    model, compressor, batches = normed()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    strategies: list[Strategy] = [{"a": 4}, {"b": 3}, {"a": 2, "b": 5}]
    quick = ShortTraining(batches * 10, (), learning_rate=0.02)
    worth = evaluator(compressor, batches, quick=quick)
    found = {i: worth(s) for i, s in enumerate(strategies)}
    torch.rand(5)  # resumed searches and workers come with other states of the generator
    again = evaluator(compressor, batches, quick=quick)
    for i in (2, 0, 1):
        assert again(strategies[i]) == found[i]
    reference = reference_outputs(model, batches)
    for i, strategy in enumerate(strategies):
        assert found[i].score.loss < evaluator(compressor, batches)(strategy).score.loss
        small = compressor.cut(strategy)
        assert found[i].score == quick.tuned(small, batches, reference)
        assert found[i].score == evaluate(small, batches, True, reference)
        assert found[i].score != evaluate(compressor.cut(strategy), batches, True, reference)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_quick_tuning_holds_the_gradients() -> None:
    """Held to next to nothing, the weights only decay; norms and biases move."""
    before, _, batches = normed()
    model = copy.deepcopy(before)
    ShortTraining(batches, (), clip=1e-9).tuned(model, batches)
    moved = {
        name: not torch.allclose(a, b, rtol=1e-2, atol=0)
        for (name, a), b in zip(before.named_parameters(), model.parameters(), strict=True)
    }
    held = {name: p.ndim > 1 for name, p in before.named_parameters()}
    assert any(moved.values()) and not any(moved[n] and held[n] for n in moved)


def test_quick_tuning_leaves_the_global_generator_alone() -> None:
    _, compressor, batches = normed()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    evaluator(compressor, batches, quick=ShortTraining(batches, ()))({"a": 4})
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
@pytest.mark.parametrize("method", AGENTS)
def test_episodes_after_training_are_better_than_those_of_the_warmup(method: str) -> None:
    for seed in range(5):
        rewards = [e.reward for e in searched(method, seed, episodes=150, warmup=30).history]
        assert (
            np.mean(rewards[-30:]) > np.mean(rewards[1:30]) + 2 * np.std(rewards[1:30]) / 30**0.5
        )
