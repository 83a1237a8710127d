"""Learning episode by episode: seeds, walks side by side, stops, environments."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import (
    AGENTS,
    EpisodicAlgorithm,
    Settings,
)
from toy_walk import (
    TARGETS,
    ToyWalk,
    assert_same_state,
    every_agent,
    make_agent,
    side_by_side,
    wander,
)

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
