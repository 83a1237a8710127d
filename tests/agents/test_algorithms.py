"""The agents on a toy walk whose best policy is known."""

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import (
    AGENTS,
    AmcDDPG,
    EpisodeReplay,
    EpisodicAlgorithm,
    Exploration,
    Policy,
    Settings,
    load_policy,
    sample_truncated_normal,
    save_policy,
)
from toy_walk import TARGETS, Suggest, ToyWalk, assert_same_state, make_agent

every_agent = pytest.mark.parametrize("kind", AGENTS)


def make_exploration(**settings: Any) -> Exploration:
    defaults = {"sigma": 0.5, "sigma_decay": 0.95, "sigma_min": 0.02, "seed": 0}
    return Exploration(**{"warmup_episodes": 3, "demonstrations": (), **defaults, **settings})


def side_by_side(walks: int) -> tuple[DummyVecEnv, list[ToyWalk]]:
    envs = [ToyWalk() for _ in range(walks)]
    return DummyVecEnv([lambda env=env: env for env in envs]), envs


def greedy_reward(agent: EpisodicAlgorithm, env: ToyWalk) -> float:
    observation, _ = env.reset()
    done = False
    while not done:
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, done, _, _ = env.step(action)
    return reward


def weights_of(agent: EpisodicAlgorithm) -> list[torch.Tensor]:
    return [value.clone() for value in agent.policy.state_dict().values()]


def same(first: Iterable[torch.Tensor], second: Iterable[torch.Tensor]) -> list[bool]:
    return [torch.equal(one, other) for one, other in zip(first, second, strict=True)]


# ---- truncated normal


@pytest.mark.parametrize("sigma", [0.5, 0.1, 0.02, 1e-3])
@pytest.mark.parametrize("mean", [0.0, 0.01, 0.37, 1.0])
def test_truncated_normal_matches_scipy(mean: float, sigma: float) -> None:
    sample = sample_truncated_normal(np.random.default_rng(0), np.full(20_000, mean), sigma)
    oracle = stats.truncnorm(-mean / sigma, (1 - mean) / sigma, loc=mean, scale=sigma)
    assert sample.min() >= 0.0 and sample.max() <= 1.0
    error = oracle.std() / np.sqrt(sample.size)
    assert abs(sample.mean() - oracle.mean()) < 5 * error
    assert sample.std() == pytest.approx(oracle.std(), rel=0.05)
    assert stats.kstest(sample, oracle.cdf).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [0.0, 1e-300, 1e-16])
def test_truncated_normal_collapses_onto_its_mean(sigma: float) -> None:
    mean = np.array([0.0, 1e-9, 0.5, 1.0])
    sample = sample_truncated_normal(np.random.default_rng(0), mean, sigma)
    np.testing.assert_allclose(sample, mean, atol=1e-14)


# ---- exploration


def episodes_of(
    exploration: Exploration, proposals: np.ndarray, walks: int, steps: int = 1
) -> list[np.ndarray]:
    """What every episode plays, [steps, A] each, ``walks`` of them at a time."""
    played = []
    for first in range(0, len(proposals), walks):
        here = proposals[first : first + walks]
        exploration.start(len(here))
        actions = [exploration.act(here) for _ in range(steps)]
        exploration.finish()
        played += list(np.stack(actions, axis=1))
    return played


@pytest.mark.parametrize("demonstrations", [0, 2, 5])
def test_sigma_decays_per_episode_from_the_end_of_the_warmup_to_its_floor(
    demonstrations: int,
) -> None:
    exploration = make_exploration(demonstrations=[(0.5,)] * demonstrations)
    sigmas = []
    for _ in range(100):
        sigmas.append(exploration.sigma)
        exploration.start()
        exploration.finish()
    constant = max(3, demonstrations) + 1
    assert sigmas[:constant] == [0.5] * constant
    assert sigmas[constant : constant + 2] == pytest.approx([0.475, 0.45125])
    assert sigmas[-1] == 0.02


def test_demonstrations_come_first_then_random_actions_then_noise_around_the_proposal() -> None:
    shown = [(0.5, 0.25), (1.0, 0.0)]
    exploration = make_exploration(demonstrations=shown, sigma=0.02)
    proposals = np.full((4, 1000), 0.3, dtype=np.float32)
    played = episodes_of(exploration, proposals, walks=1, steps=2)
    for actions, demonstration in zip(played, shown, strict=False):
        assert np.all(actions == np.array(demonstration, dtype=np.float32)[:, None])
    assert played[2].std() > 0.01 and abs(played[2].mean() - 0.5) < 0.05
    assert abs(played[3].mean() - 0.3) < 0.01 and played[3].std() < 0.05
    assert all(actions.dtype == np.float32 for actions in played)


def test_demonstrations_that_outlast_the_warmup_are_all_played() -> None:
    exploration = make_exploration(demonstrations=[(i / 10,) for i in range(6)])
    played = episodes_of(exploration, np.full((6, 1), 0.7, dtype=np.float32), walks=1)
    assert np.ravel(played).tolist() == pytest.approx([i / 10 for i in range(6)])
    assert not exploration.past_warmup  # as many as in a warm-up of six


def test_random_episodes_have_spreads_of_their_own_and_are_uniform_within() -> None:
    exploration = make_exploration(warmup_episodes=400)
    played = np.array(episodes_of(exploration, np.zeros((400, 500)), walks=1))[:, 0]
    spreads = 2 * np.abs(played - 0.5).max(axis=1)
    assert stats.kstest(spreads, "uniform").pvalue > 1e-3
    within = (played - 0.5) / spreads[:, None] + 0.5  # the largest of 500 is close to the spread
    assert stats.kstest(within.ravel()[::97], "uniform").pvalue > 1e-3
    assert np.corrcoef(played[:, 0] - 0.5, played[:, 1] - 0.5)[0, 1] < 0.2


def test_wide_warmup_is_uniform_on_the_whole_range() -> None:
    exploration = make_exploration(warmup_episodes=50, narrow_warmup=False)
    played = np.array(episodes_of(exploration, np.zeros((50, 100)), walks=1))
    assert stats.kstest(played.ravel(), "uniform").pvalue > 1e-3
    assert (2 * np.abs(played - 0.5).max(axis=(1, 2)) > 0.9).all()


def wander(rng: np.random.Generator) -> list[float]:
    """Suggests four random actions."""
    return rng.random(4).tolist()


def never(rng: np.random.Generator) -> list[float]:
    raise AssertionError("nobody wants a suggestion")


@pytest.mark.parametrize("elite", [0.0, 0.6])
@pytest.mark.parametrize("walks", [2, 3, 8, 12])
def test_walks_side_by_side_draw_what_they_would_draw_one_after_the_other(
    walks: int, elite: float
) -> None:
    """Demonstrations, suggestions, random episodes, and noise of each episode's own deviation."""
    proposals = np.random.default_rng(5).random((12, 2)).astype(np.float32)
    suggested: list[list[float]] = []

    def suggest(rng: np.random.Generator) -> list[float]:
        suggested.append(wander(rng)[:3])
        return suggested[-1]

    def played(walks: int) -> list[np.ndarray]:
        exploration = make_exploration(
            demonstrations=[(0.2, 0.4, 0.6)] * 2, warmup_episodes=5, elite=elite, suggest=suggest
        )
        return episodes_of(exploration, proposals, walks, steps=3)

    together, alone = played(walks), played(1)
    assert all(map(np.array_equal, together, alone))
    assert len({actions.tobytes() for actions in alone[2:]}) == 10  # no two are alike
    number = len(suggested) // 2
    assert suggested[:number] == suggested[number:]
    assert number == sum(np.ptp(actions, axis=1).max() == 0 for actions in alone[2:])
    assert (0 < number < 10) == bool(elite)


@pytest.mark.parametrize(
    "settings",
    [{"warmup_episodes": 9}, {"warmup_episodes": 1, "elite": 0.5, "suggest": wander}],
    ids=["random", "suggested"],
)
def test_an_episode_that_broke_off_is_drawn_again(settings: dict[str, Any]) -> None:
    first, second = make_exploration(**settings), make_exploration(**settings)
    proposals = np.zeros((4, 1))
    expected = episodes_of(first, proposals, walks=2, steps=3)
    second.start(2)
    second.act(proposals[:2])
    assert all(map(np.array_equal, episodes_of(second, proposals, walks=2, steps=3), expected))


@pytest.mark.parametrize("elite", [0.0, 0.25, 0.75, 1.0])
def test_share_of_episodes_that_play_suggestions(elite: float) -> None:
    """Step by step what was suggested, also in the warm-up; else random actions, then noise."""
    exploration = make_exploration(warmup_episodes=500, elite=elite, suggest=lambda _: (0.0, 1.0))
    proposals = np.full((1000, 2), 0.5, dtype=np.float32)
    played = np.array(episodes_of(exploration, proposals, walks=50, steps=2))
    suggested = (played == np.array([0, 1])[:, None]).all(axis=(1, 2))
    assert suggested[:500].mean() == pytest.approx(elite, abs=0.06)
    assert suggested[500:].mean() == pytest.approx(elite, abs=0.06)
    noisy = played[~suggested]
    assert ((noisy > 0) & (noisy < 1)).all()
    assert len(np.unique(noisy)) >= 0.99 * noisy.size


def test_suggestions_are_random_numbers_of_their_own_episode() -> None:
    """Not those that decide whether there is a suggestion: all of [0, 1] comes up."""
    suggested: list[float] = []

    def suggest(rng: np.random.Generator) -> list[float]:
        suggested.extend(wander(rng))
        return suggested[-4:]

    make_exploration(warmup_episodes=0, elite=0.3, suggest=suggest).start(2000)
    assert stats.kstest(suggested, "uniform").pvalue > 1e-3
    assert len(set(suggested)) == len(suggested) > 2000


@pytest.mark.parametrize("shown", [0, 3, 8])
def test_suggestions_begin_where_the_demonstrations_end(shown: int) -> None:
    """Whether the warm-up is over by then or not."""
    exploration = make_exploration(
        warmup_episodes=6, demonstrations=[(0.2, 0.4)] * shown, elite=1.0, suggest=lambda _: (0, 1)
    )
    played = episodes_of(exploration, np.full((12, 1), 0.7, dtype=np.float32), walks=2, steps=2)
    expected = [(0.2, 0.4)] * shown + [(0, 1)] * (12 - shown)
    np.testing.assert_allclose(np.array(played)[..., 0], expected, rtol=1e-6)


def test_without_suggestions_or_a_share_for_them_the_actor_plays_alone() -> None:
    proposals = np.random.default_rng(0).random((20, 1)).astype(np.float32)
    plain = episodes_of(make_exploration(), proposals, walks=4)
    for settings in ({"elite": 1.0}, {"elite": 0.0, "suggest": never}):
        played = episodes_of(make_exploration(**settings), proposals, walks=4)
        assert all(map(np.array_equal, played, plain))


def test_best_episodes_are_those_of_the_highest_rewards() -> None:
    rng = np.random.default_rng(0)
    actions, observations = list(rng.random((12, 4, 1))), list(rng.random((12, 4, 2)))
    rewards = rng.permutation(12).astype(float)
    exploration = make_exploration(warmup_episodes=12)
    exploration.start(12)
    exploration.finish(rewards.tolist(), actions, observations)
    assert exploration.episode == 12
    order = np.argsort(-rewards)
    for count in (1, 3, 12, 50):
        seen, taken = exploration.best(count)
        assert np.array_equal(seen, np.concatenate([observations[i] for i in order[:count]]))
        assert np.array_equal(taken, np.concatenate([actions[i] for i in order[:count]]))


@pytest.mark.parametrize(
    "setting",
    [
        {"warmup_episodes": -1},
        {"demonstrations": [(0.5, 1.5)]},
        {"demonstrations": [(float("nan"),)]},
        {"sigma_min": 0.6},
        {"sigma_decay": 0.0},
        {"sigma": float("nan")},
    ],
)
def test_exploration_refuses_impossible_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        make_exploration(**setting)


# ---- replay


def make_replay(**settings: Any) -> EpisodeReplay:
    defaults = {"reward_on": "every", "baseline": "episode", "baseline_decay": 0.5, "seed": 0}
    space = spaces.Box(0.0, 1.0, (1,), np.float32)
    return EpisodeReplay(10, space, space, "cpu", **{"buffer_episodes": 1, **defaults, **settings})


def add_episode(replay: EpisodeReplay, reward: float, length: int = 4) -> None:
    """Observations 0.1, 0.2, ... and as actions the reward, which tells the episode."""
    seen = np.arange(1, length + 2, dtype=np.float32)[:, None] / 10
    actions = np.full((length, 1), reward, dtype=np.float32)
    replay.add_episode(seen[:-1], actions, seen[-1], reward)


def test_every_transition_of_an_episode_carries_its_reward_and_the_next_observation() -> None:
    replay = make_replay()
    for reward in (0.25, 0.75):
        add_episode(replay, reward)
    assert replay.size() == 8
    assert replay.rewards[:8, 0].tolist() == [0.25] * 4 + [0.75] * 4
    assert replay.dones[:8, 0].tolist() == [0, 0, 0, 1] * 2
    assert replay.observations[:8, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4] * 2)
    assert replay.next_observations[:8, 0, 0].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5] * 2)
    assert replay.last_reward == 0.75


def test_the_newest_baseline_is_subtracted_from_every_sample() -> None:
    replay = make_replay()
    add_episode(replay, 1.0)
    assert replay.baseline == 1.0
    add_episode(replay, 0.0)
    assert replay.baseline == 0.5
    sample = replay.sample(256)
    assert set(sample.rewards.ravel().tolist()) == {0.5, -0.5}
    assert set(replay.rewards[:8, 0].tolist()) == {0.0, 1.0}  # the ring keeps the true rewards


def test_batch_baseline_follows_the_mean_of_the_samples() -> None:
    replay = make_replay(baseline="batch")
    add_episode(replay, 1.0)
    assert replay.baseline is None
    assert torch.all(replay.sample(8).rewards == 0.0)
    add_episode(replay, 0.0)
    for _ in range(20):
        replay.sample(512)
    assert replay.baseline == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("case", ["distinct", "ties", "one", "equal", "huge"])
def test_ranks_are_those_of_scipy(case: str) -> None:
    """Average ranks 1 .. n, moved to -1 .. 1; of all episodes, also those no longer held."""
    rng = np.random.default_rng(0)
    rewards = {
        "distinct": rng.normal(size=30),
        "ties": rng.integers(0, 5, 30).astype(float),
        "one": np.array([3.5]),
        "equal": np.full(6, -2.0),
        "huge": np.array([-1e30, -5.0, -4.999, -4.998, 1e-30]),
    }[case]
    replay = make_replay(baseline="rank", buffer_episodes=7)
    for number, reward in enumerate(rewards, start=1):
        add_episode(replay, float(reward))
        seen = rewards[:number].astype(np.float32)
        expected = (2 * stats.rankdata(seen) - 1) / number - 1
        of_reward = dict(zip(seen.tolist(), expected.tolist(), strict=True))
        sample = replay.sample(64)
        assert sample.rewards.dtype == torch.float32
        found = zip(sample.actions.ravel().tolist(), sample.rewards.ravel().tolist(), strict=True)
        for reward_of_episode, rank in found:
            assert rank == pytest.approx(of_reward[reward_of_episode], abs=1e-6)
    assert (replay.rewards[: replay.size(), 0] == replay.actions[: replay.size(), 0, 0]).all()
    assert replay.baseline is None


def test_ranks_on_the_last_transition_only() -> None:
    replay = make_replay(baseline="rank", reward_on="last", buffer_episodes=3)
    for reward in (5.0, 9.0, 7.0):
        add_episode(replay, reward)
    sample = replay.sample(256)
    for done, action, reward in zip(sample.dones, sample.actions, sample.rewards, strict=True):
        expected = {5.0: -2 / 3, 7.0: 0.0, 9.0: 2 / 3}[action.item()] if done else 0.0
        assert reward.item() == pytest.approx(expected, abs=1e-6)


def test_reward_on_last_leaves_zeros_elsewhere() -> None:
    replay = make_replay(reward_on="last", baseline="none")
    add_episode(replay, 0.5)
    sample = replay.sample(256)
    assert torch.equal(sample.rewards, 0.5 * sample.dones)
    assert 0 < sample.dones.sum() < 256


def test_ring_grows_to_whole_episodes_and_then_overwrites_the_oldest() -> None:
    replay = make_replay(buffer_episodes=3)
    for reward in (1.0, 2.0, 3.0, 4.0):
        add_episode(replay, reward)
    assert replay.buffer_size == 12 and replay.full
    assert replay.rewards[:, 0].tolist() == [4.0] * 4 + [2.0] * 4 + [3.0] * 4
    assert replay.observations[:4, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    "setting", [{"reward_on": "first"}, {"baseline": "mean"}, {"baseline_decay": 1.0}]
)
def test_replay_refuses_unknown_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        make_replay(**setting)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("baseline", ["rank", "episode", "batch", "none"])
def test_a_reward_that_is_no_number_is_refused(baseline: str, reward: float) -> None:
    replay = make_replay(baseline=baseline)
    with pytest.raises(ValueError, match=f"must be finite, got {reward}"):
        add_episode(replay, reward)
    assert replay.size() == 0 and replay.baseline is None


# ---- the agents


def best_of_random_searches(targets: Sequence[float], episodes: int) -> np.ndarray:
    """The best reward of each of 200 searches."""
    strategies = np.random.default_rng(0).random((200, episodes, len(targets)))
    return -np.sum((strategies - targets) ** 2, axis=-1).min(axis=1)


def near_the_best(env: ToyWalk) -> Suggest:
    """Suggests the best walk so far, some of its actions changed a little."""

    def suggest(rng: np.random.Generator) -> list[float]:
        walks = np.array(env.history or [[0.5] * len(env.targets)])
        best = walks[np.sum((walks - env.targets) ** 2, axis=1).argmin()]
        changed = rng.random(len(best)) < 0.3
        return np.clip(best + changed * rng.normal(0, 0.15, len(best)), 0, 1).tolist()

    return suggest


def learned(
    targets: Sequence[float],
    episodes: int,
    seeds: int,
    kind: str,
    suggesting: Callable[[ToyWalk], Suggest | None] = lambda env: None,
    **settings: Any,
) -> tuple[float, float, float]:
    """Means over the seeds: best reward, reward of the last episodes, reward without noise."""
    found = []
    for seed in range(seeds):
        env, rewards = ToyWalk(targets), list[float]()
        agent = make_agent(env, kind, seed=seed, suggest=suggesting(env), **settings)
        agent.learn_episodes(episodes, lambda _, reward, info, seen=rewards: seen.append(reward))
        found.append((max(rewards), np.mean(rewards[-15:]), greedy_reward(agent, env)))
    best, late, greedy = np.mean(found, axis=0)
    return best, late, greedy


@pytest.mark.parametrize(
    ("kind", "baseline"), [("ddpg", "episode"), ("td3", "rank"), ("sac", "episode")]
)
def test_agent_beats_random_search_at_equal_episodes(kind: str, baseline: str) -> None:
    targets, episodes = (0.1, 0.8, 0.3, 0.9, 0.6, 0.2), 80
    best, _, greedy = learned(
        targets, episodes, 2, kind, baseline=baseline, actor_lr=3e-3, critic_lr=3e-3, tau=0.05,
        warmup_episodes=30, sigma_decay=0.9,
    )  # fmt: skip
    assert best > np.median(best_of_random_searches(targets, episodes))
    uniform = -np.sum((0.5 - np.array(targets)) ** 2)
    assert greedy > uniform / 2


@pytest.mark.slow
@every_agent
@pytest.mark.parametrize("baseline", ["episode", "rank"])
@pytest.mark.parametrize("elite", [0.0, 0.75])
def test_agent_beats_random_search_on_a_longer_walk(
    kind: str, baseline: str, elite: float
) -> None:
    """With its own noise alone, and as it is by default, beside a search around the best."""
    targets, episodes = (0.1, 0.8, 0.3, 0.9, 0.6, 0.2, 0.7, 0.1, 0.9, 0.4), 200
    best, late, greedy = learned(
        targets, episodes, 3, kind, near_the_best, baseline=baseline, net_arch=(64, 64),
        actor_lr=1e-3, warmup_episodes=50, elite=elite, imitated=10 if elite else 0,
    )  # fmt: skip
    at_random = best_of_random_searches(targets, episodes)
    assert best > np.quantile(at_random, 0.9)
    assert greedy > np.quantile(at_random, 0.5 if not elite else 0.9)
    if elite:
        assert best > at_random.max()
    if kind != "sac":  # whose policy goes on exploring
        assert late > np.median(at_random)


@every_agent
def test_warmup_shows_the_demonstrations_and_is_random_and_teaches_nothing(kind: str) -> None:
    env, shown = ToyWalk(), [(0.5,) * 4, (0.0, 0.25, 0.75, 1.0)]
    agent = make_agent(env, kind, shown, warmup_episodes=150, narrow_warmup=False)
    before = weights_of(agent)
    agent.learn_episodes(150)
    played = np.array(env.history)
    assert played[:2].tolist() == [list(actions) for actions in shown]
    assert stats.kstest(played[2:].ravel(), "uniform").pvalue > 1e-3
    assert all(same(before, weights_of(agent)))
    assert agent.replay_buffer.size() == 600


@every_agent
def test_training_takes_as_many_steps_as_the_episode_and_only_past_the_warmup(kind: str) -> None:
    agent = make_agent(kind=kind, warmup_episodes=3)
    updates = []
    agent.learn_episodes(6, lambda *_: updates.append(agent._n_updates))
    assert updates == [0, 0, 0, 4, 8, 12]


@every_agent
def test_executed_actions_are_stored(kind: str) -> None:
    env = ToyWalk(lowest=0.6)
    agent = make_agent(env, kind, narrow_warmup=False)
    agent.learn_episodes(10)
    stored = (agent.replay_buffer.actions[: agent.replay_buffer.size(), 0, 0] + 1) / 2
    np.testing.assert_allclose(stored, np.ravel(env.history), atol=1e-6)
    assert stored.min() == pytest.approx(0.6) and (stored < 0.601).sum() > 5


@every_agent
@pytest.mark.parametrize("walks", [1, 3])
def test_suggestions_are_played_and_stored_as_they_were_carried_out(kind: str, walks: int) -> None:
    envs = [ToyWalk(lowest=0.6) for _ in range(walks)]
    suggested: list[list[float]] = []

    def suggest(rng: np.random.Generator) -> list[float]:
        suggested.append(wander(rng))
        return suggested[-1]

    vector = DummyVecEnv([lambda env=env: env for env in envs])
    agent = make_agent(vector, kind, warmup_episodes=3, elite=1.0, suggest=suggest)
    agent.learn_episodes(12)
    played = [env.history[episode] for episode in range(12 // walks) for env in envs]
    assert len(suggested) == 12
    np.testing.assert_allclose(played, np.maximum(suggested, 0.6), atol=1e-6)
    assert np.min(suggested) < 0.3
    stored = (agent.replay_buffer.actions[: agent.replay_buffer.size(), 0, 0] + 1) / 2
    np.testing.assert_allclose(stored, np.ravel(played), atol=1e-6)
    kept = np.array(agent.exploration.actions)[..., 0]
    np.testing.assert_allclose(kept, played, atol=1e-6)


@every_agent
def test_agent_learns_from_suggestions(kind: str) -> None:
    """Those of somebody who nearly knows the targets, against none, at equal episodes."""

    def informed(rng: np.random.Generator) -> list[float]:
        return np.clip(rng.normal(TARGETS, 0.1), 0, 1).tolist()

    (*_, alone), (*_, told) = (
        learned(
            TARGETS, 40, 2, kind, lambda env, suggest=suggest: suggest, elite=0.75, imitated=3,
            baseline="rank", actor_lr=1e-3, sigma=0.06,
        )
        for suggest in (None, informed)
    )  # fmt: skip
    assert told > alone / 2


def test_after_the_warmup_sac_plays_its_own_random_actions_and_the_others_add_noise() -> None:
    for kind in AGENTS:
        env = ToyWalk()
        agent = make_agent(env, kind, warmup_episodes=0, sigma=0.1)
        proposed, predict = [], agent.predict

        def watch(observation: Any, deterministic: bool, predict: Any = predict) -> Any:
            action, state = predict(observation, deterministic=deterministic)
            proposed.append(float(action[0, 0]))  # noqa: B023 - called before the next round
            return action, state

        agent.predict = watch  # type: ignore[method-assign]
        agent.learn_episodes(5)
        played = np.ravel(env.history)
        greedy = predict(agent.replay_buffer.observations[:20, 0], deterministic=True)[0]
        if kind == "sac":
            assert played.tolist() == proposed
        else:
            assert 0.01 < np.std(played - proposed) < 0.2
        assert np.abs(np.ravel(greedy) - played).max() > 1e-3


def test_sac_draws_anew_at_every_step() -> None:
    """The actor stays as it is, and sees the same at the start of every episode."""
    env = ToyWalk()
    agent = make_agent(env, "sac", warmup_episodes=0, actor_lr=0.0)
    agent.learn_episodes(6)
    assert len({actions[0] for actions in env.history}) == 6


def test_actor_and_critic_keep_their_own_learning_rates() -> None:
    agent = make_agent(warmup_episodes=0, actor_lr=0.0, critic_lr=1e-2)
    actor = [value.clone() for value in agent.actor.parameters()]
    critic = [value.clone() for value in agent.critic.parameters()]
    agent.learn_episodes(3)
    assert all(same(actor, agent.actor.parameters()))
    assert not any(same(critic, agent.critic.parameters()))


@every_agent
def test_learning_rates_arrive_at_the_optimisers(kind: str) -> None:
    agent = make_agent(kind=kind, warmup_episodes=0, actor_lr=1e-4, critic_lr=2e-3, imitated=2)
    agent.learn_episodes(2)
    assert agent.actor.optimizer.param_groups[0]["lr"] == 1e-4
    assert agent.critic.optimizer.param_groups[0]["lr"] == 2e-3


@pytest.mark.parametrize("baseline", ["episode", "rank"])
def test_critic_learns_the_reward_less_the_baseline_and_what_comes_after(baseline: str) -> None:
    """One gradient step of DDPG against y = r + gamma (1 - done) Q'(s', mu'(s'))."""
    agent = make_agent(warmup_episodes=30, gamma=0.9, baseline=baseline)
    agent.learn_episodes(31)  # one round of training, so that the targets lag behind
    replay = copy.deepcopy(agent.replay_buffer)
    sample = replay.sample(agent.batch_size)
    with torch.no_grad():
        following = agent.actor_target(sample.next_observations)
        (after,) = agent.critic_target(sample.next_observations, following)
        wanted = sample.rewards + 0.9 * (1 - sample.dones) * after
        (value,) = agent.critic(sample.observations, sample.actions)
    expected = torch.nn.functional.mse_loss(value, wanted).item()
    agent.train(1, agent.batch_size)
    found = agent.logger.name_to_value["train/critic_loss"]
    assert found == pytest.approx(expected, rel=1e-5)
    assert 0 < expected


@every_agent
def test_imitation_draws_the_actor_to_the_best_episode(kind: str) -> None:
    """The critic knows nothing here, its step size is zero."""
    settings = {"warmup_episodes": 12, "critic_lr": 0.0, "actor_lr": 3e-3, "sigma": 0.06}
    distances = []
    for imitated in (0, 1):
        env = ToyWalk()
        agent = make_agent(env, kind, imitated=imitated, narrow_warmup=False, **settings)
        agent.learn_episodes(12)
        seen, best = agent.exploration.best(1)
        before, _ = agent.predict(seen, deterministic=True)
        for _ in range(60):
            agent.train(4, agent.batch_size)
            agent._imitate(4)
        found, _ = agent.predict(seen, deterministic=True)
        distances.append((np.abs(before - best).max(), np.abs(found - best).max()))
    (_, without), (start, imitating) = distances
    assert imitating < min(0.2, start / 2, without / 2)


@every_agent
def test_imitation_is_a_step_for_every_step_of_training_and_not_in_the_warmup(kind: str) -> None:
    agent = make_agent(kind=kind, warmup_episodes=3, imitated=2)
    taken = []
    imitate = agent._imitate
    agent._imitate = lambda steps: taken.append((steps, agent._n_updates)) or imitate(steps)  # type: ignore[func-returns-value,method-assign]
    agent.learn_episodes(6)
    assert taken == [(4, 4), (4, 8), (4, 12)]


# ---- the same seed


@every_agent
@pytest.mark.parametrize("walks", [1, 3])
def test_same_seed_gives_the_same_bits_whatever_happens_to_global_generators(
    kind: str, walks: int
) -> None:
    def made(seed: int) -> EpisodicAlgorithm:
        own = {"elite": 0.5, "imitated": 3, "baseline": "rank", "suggest": wander}
        return make_agent(side_by_side(walks)[0], kind, [(0.5,) * 4], seed, sigma=0.2, **own)

    def disturb(episode: int, reward: float, info: dict[str, Any]) -> None:
        np.random.seed(episode)
        torch.manual_seed(episode)

    first, second, other = made(3), made(3), made(4)
    first.learn_episodes(15)
    second.learn_episodes(9, disturb)
    second.learn_episodes(6)
    other.learn_episodes(15)
    assert first._n_updates > 0
    assert_same_state(first, second)
    assert not np.array_equal(first.replay_buffer.actions, other.replay_buffer.actions)


@every_agent
def test_learning_leaves_the_global_generators_alone(kind: str) -> None:
    agent = make_agent(kind=kind, warmup_episodes=2)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    agent.learn_episodes(6)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


# ---- side by side


@every_agent
@pytest.mark.parametrize("walks", [2, 4])
def test_walks_side_by_side_are_the_same_warmup_as_one_after_the_other(
    kind: str, walks: int
) -> None:
    shown = [(0.5,) * 4, (0.1, 0.2, 0.3, 0.4)]
    envs = side_by_side(walks)[0]
    together = make_agent(envs, kind, shown, warmup_episodes=12)
    alone = make_agent(kind=kind, demonstrations=shown, warmup_episodes=12)
    together.learn_episodes(12)
    alone.learn_episodes(12)
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        one, other = getattr(together.replay_buffer, name), getattr(alone.replay_buffer, name)
        assert np.array_equal(one, other), name
    assert together.replay_buffer.baseline == alone.replay_buffer.baseline
    assert together.exploration.episode == alone.exploration.episode == 12


@every_agent
def test_a_round_of_walks_is_reported_in_order_and_learned_from_at_once(kind: str) -> None:
    envs, walks = side_by_side(3)
    agent = make_agent(envs, kind, warmup_episodes=4)
    seen, updates = [], []

    def watch(episode: int, reward: float, info: dict[str, Any]) -> None:
        seen.append((episode, reward, float(info["executed_action"][0])))
        updates.append(agent._n_updates)

    agent.learn_episodes(8, watch)  # two rounds are six, so it takes a third
    assert [episode for episode, *_ in seen] == list(range(9))
    assert updates == [0] * 3 + [12] * 3 + [24] * 3
    for episode, reward, action in seen:
        played = walks[episode % 3].history[episode // 3]
        assert reward == pytest.approx(-np.sum((np.array(played) - TARGETS) ** 2))
        assert action == pytest.approx(played[-1])


def test_walks_of_different_lengths_are_refused() -> None:
    long, short = ToyWalk(), ToyWalk()
    short.targets = TARGETS[:2]
    short._observe = long._observe  # type: ignore[method-assign]
    agent = make_agent(DummyVecEnv([lambda: long, lambda: short]))
    with pytest.raises(ValueError, match="the same number of decisions"):
        agent.learn_episodes(2)


# ---- between episodes


def test_on_episode_sees_every_episode_and_can_stop_the_search() -> None:
    env, seen = ToyWalk(), []

    def watch(episode: int, reward: float, info: dict[str, Any]) -> bool:
        seen.append((episode, reward, float(info["executed_action"][0])))
        return episode < 2

    make_agent(env).learn_episodes(10, watch)
    assert [episode for episode, *_ in seen] == [0, 1, 2]
    for (_, reward, action), played in zip(seen, env.history, strict=True):
        assert reward == pytest.approx(-np.sum((np.array(played) - TARGETS) ** 2))
        assert action == pytest.approx(played[-1])


@pytest.mark.parametrize("fail_at_step", [8, 10, 11])
def test_a_broken_walk_leaves_no_half_episode(fail_at_step: int) -> None:
    env = ToyWalk(fail_at_step=fail_at_step)
    agent = make_agent(env)
    with pytest.raises(RuntimeError, match="broke"):
        agent.learn_episodes(5)
    assert agent.exploration.episode == 2
    env.fail_at_step = None
    agent.learn_episodes(3)
    assert agent.exploration.episode == 5 and agent.replay_buffer.size() == 20
    assert agent.replay_buffer.dones[:20, 0].tolist() == [0, 0, 0, 1] * 5
    assert np.all(agent.replay_buffer.observations[0:20:4, 0, 0] == 1.0)  # first decisions


@every_agent
@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(
            net_arch=(20, 10), batch_size=7, tau=0.1, gamma=0.5, warmup_episodes=3, buffer_size=99,
            baseline="batch", baseline_decay=0.25, reward_on="last", elite=0.125,
            sigma_decay=0.5, buffer_episodes=3, narrow_warmup=False,
        ),
    ],
    ids=["default", "other"],
)  # fmt: skip
def test_settings_arrive(kind: str, settings: Settings) -> None:
    agent = AGENTS[kind](ToyWalk(), settings, [(0.25,) * 4], wander)
    assert agent.exploration.suggest is wander
    assert agent.exploration.demonstrations == ((0.25,) * 4,)
    assert agent.policy.net_arch == list(settings.net_arch)
    assert agent.critic.n_critics == {"ddpg": 1, "td3": 2, "sac": 2}[kind]
    for name in ("batch_size", "tau", "gamma", "buffer_size"):
        assert getattr(agent, name) == getattr(settings, name), name
    for name in ("reward_on", "baseline_decay", "buffer_episodes"):
        assert getattr(agent.replay_buffer, name) == getattr(settings, name), name
    assert agent.replay_buffer.baseline_kind == settings.baseline
    for name in ("warmup_episodes", "sigma_decay", "elite", "narrow_warmup"):
        assert getattr(agent.exploration, name) == getattr(settings, name), name
    assert agent.exploration.sigma == (0.0 if kind == "sac" else settings.sigma)


@every_agent
def test_environments_that_do_not_fit_are_refused(kind: str) -> None:
    env = ToyWalk()
    env.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    with pytest.raises(ValueError, match=r"actions must be a Box\(0, 1\)"):
        make_agent(env, kind)
    env = ToyWalk()
    env.observation_space = spaces.Box(0.0, 1.0, (5, 1), np.float32)
    with pytest.raises(ValueError, match=r"observations must be a Box of shape \(S,\)"):
        make_agent(env, kind)
    env = ToyWalk()
    env.step = lambda action: (env._observe(), 0.0, True, False, {})  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="must put 'executed_action'"):
        make_agent(env, kind).learn_episodes(1)
    with pytest.raises(ValueError, match=r"executed_action must lie in \[0, 1\]"):
        make_agent(ToyWalk(lowest=1.5), kind).learn_episodes(1)


# ---- policy file


@pytest.fixture
def saved(tmp_path: Any) -> tuple[AmcDDPG, Any]:
    agent = make_agent(warmup_episodes=1)
    agent.learn_episodes(4)
    save_policy(tmp_path / "run.0.5", agent, {"observation_names": ["a", "b", "c", "d", "e"]})
    return agent, tmp_path / "run.0.5"


@every_agent
@pytest.mark.parametrize("net_arch", [(32, 32), (7,), (16, 8, 4)])
def test_loaded_policy_is_exactly_the_agent_without_noise(
    kind: str, net_arch: tuple[int, ...], tmp_path: Any
) -> None:
    agent = make_agent(kind=kind, warmup_episodes=1, actor_lr=1e-2, net_arch=net_arch)
    agent.learn_episodes(6)
    stem = tmp_path / "run.0.5"
    save_policy(stem, agent, {"observation_names": ["a", "b", "c", "d", "e"]})
    state = torch.random.get_rng_state()
    policy = load_policy(stem)
    assert torch.equal(state, torch.random.get_rng_state())
    observations = np.random.default_rng(0).random((50, 5), dtype=np.float32)
    expected, _ = agent.predict(observations, deterministic=True)
    assert np.ptp(expected) > 1e-4
    assert isinstance(policy, Policy) and policy.predict(observations)[0].shape == (50, 1)
    assert np.array_equal(policy.predict(observations)[0], expected)
    for observation in observations:
        alone, _ = agent.predict(observation, deterministic=True)
        assert np.array_equal(policy.predict(observation)[0], alone)
    assert policy.metadata == {"observation_names": ["a", "b", "c", "d", "e"]}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["run.0.5.json", "run.0.5.safetensors"]
    with pytest.raises(ValueError, match=r"observation must be \[5\]"):
        policy.predict(np.zeros(4))


@every_agent
def test_saving_again_replaces_the_policy(kind: str, tmp_path: Any) -> None:
    agent = make_agent(kind=kind, warmup_episodes=1)
    observation = np.full(5, 0.5, dtype=np.float32)
    found = []
    for _ in range(2):
        agent.learn_episodes(3)
        save_policy(tmp_path / "policy", agent, {})
        found.append(load_policy(tmp_path / "policy").predict(observation)[0])
        assert np.array_equal(found[-1], agent.predict(observation, deterministic=True)[0])
    assert not np.array_equal(*found)


def edit_json(stem: Any, **changes: Any) -> None:
    """Rewrites a description with a valid checksum, as somebody with bad intentions could."""
    from agents.policy_file import _checksum

    path = stem.with_name(stem.name + ".json")
    changed = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({**changed, "checksum": _checksum(changed)}))


def test_every_byte_of_the_description_counts(saved: tuple[AmcDDPG, Any]) -> None:
    _, stem = saved
    path = stem.with_name(stem.name + ".json")
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"run\.0\.5"):
            load_policy(stem)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format_version 3 is unknown; known: 1, 2"),
        ({"sha256": "0" * 64}, "damaged, or not the file"),
        ({"sha256": None}, "field 'sha256'"),
        ({"observation_size": 6}, "sizes that the .json states"),
        ({"observation_size": True}, "field 'observation_size'"),
        ({"net_arch": [32, 10**30]}, "sizes that the .json states"),
        ({"net_arch": [32, -1]}, "field 'net_arch'"),
        ({"action": {"size": 2}}, "sizes that the .json states"),
        ({"action": 1}, "field 'action'"),
        ({"metadata": []}, "field 'metadata'"),
    ],
)
def test_a_wrong_description_is_refused(
    saved: tuple[AmcDDPG, Any], changes: dict[str, Any], message: str
) -> None:
    _, stem = saved
    edit_json(stem, **changes)
    with pytest.raises(ValueError, match=message) as refusal:
        load_policy(stem)
    assert "\n" not in str(refusal.value) and "run.0.5" in str(refusal.value)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "noise", "folder"])
def test_a_damaged_file_is_refused(saved: tuple[AmcDDPG, Any], suffix: str, damage: str) -> None:
    _, stem = saved
    path = stem.with_name(stem.name + suffix)
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-20])
    elif damage == "noise":
        path.write_bytes(bytes(range(256)))
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(ValueError, match=r"run\.0\.5") as refusal:
        load_policy(stem)
    assert "\n" not in str(refusal.value)


def test_weights_of_a_right_hash_are_still_checked(saved: tuple[AmcDDPG, Any]) -> None:
    from hashlib import sha256

    _, stem = saved
    path = stem.with_name(stem.name + ".safetensors")
    wrong_type = {
        name: value.double() for name, value in safetensors.torch.load_file(path).items()
    }
    for content, message in [
        (b"no tensors", "not a safetensors file"),
        (safetensors.torch.save(wrong_type), "sizes that the .json states"),
    ]:
        path.write_bytes(content)
        edit_json(stem, sha256=sha256(content).hexdigest())
        with pytest.raises(ValueError, match=message):
            load_policy(stem)


def test_what_cannot_be_a_policy_file_is_not_saved(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_policy(tmp_path / "policy", make_agent(), {"weights": np.zeros(2)})
    for kind in AGENTS:
        agent = make_agent(kind=kind)
        layers = agent.actor.latent_pi if kind == "sac" else agent.actor.mu
        layers[1] = torch.nn.Tanh()
        with pytest.raises(ValueError, match="ReLU"):
            save_policy(tmp_path / "policy", agent, {})
    assert not list(tmp_path.iterdir())
