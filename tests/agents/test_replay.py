"""Whole episodes in the replay, their rewards and baselines."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats

from agents import (
    EpisodeReplay,
)


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
