"""The agents on a toy walk whose best policy is known."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium import spaces
from scipy import stats

from agents import (
    AmcDDPG,
    EpisodeReplay,
    Exploration,
    Policy,
    load_policy,
    sample_truncated_normal,
    save_policy,
)

TARGETS = (0.1, 0.8, 0.3, 0.9)


class ToyWalk(gym.Env[np.ndarray, np.ndarray]):
    """Match one hidden target per decision; actions below `lowest` are clipped, as by a budget."""

    def __init__(
        self,
        targets: Sequence[float] = TARGETS,
        lowest: float = 0.0,
        fail_at_step: int | None = None,
    ) -> None:
        self.targets = targets
        self.observation_space = spaces.Box(0.0, 1.0, (len(targets) + 1,), np.float32)
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.lowest = lowest
        self.fail_at_step = fail_at_step
        self.steps = 0
        self.history: list[list[float]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.actions: list[float] = []
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.steps == self.fail_at_step:
            raise RuntimeError("the walk broke")
        self.steps += 1
        self.actions.append(max(float(action[0]), self.lowest))
        done = len(self.actions) == len(self.targets)
        reward = -float(np.sum((np.array(self.actions) - self.targets) ** 2)) if done else 0.0
        if done:
            self.history.append(self.actions)
        info = {"executed_action": np.array([self.actions[-1]], dtype=np.float32)}
        return self._observe(), reward, done, False, info

    def _observe(self) -> np.ndarray:
        observation = np.zeros(len(self.targets) + 1, dtype=np.float32)
        if len(self.actions) < len(self.targets):
            observation[len(self.actions)] = 1.0
        observation[-1] = self.actions[-1] if self.actions else 0.5
        return observation


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_agent(env: gym.Env | None = None, **settings: Any) -> AmcDDPG:
    return AmcDDPG(env or ToyWalk(), **{"net_arch": (32, 32), "warmup_episodes": 5, **settings})


def make_exploration(**settings: Any) -> Exploration:
    defaults = {"sigma": 0.5, "sigma_decay": 0.95, "sigma_min": 0.02, "seed": 0}
    return Exploration(**{"warmup_episodes": 3, "first_actions": (0.5,), **defaults, **settings})


def greedy_reward(agent: AmcDDPG, env: ToyWalk) -> float:
    observation, _ = env.reset()
    done = False
    while not done:
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, done, _, _ = env.step(action)
    return reward


def weights_of(agent: AmcDDPG) -> list[torch.Tensor]:
    return [value.clone() for value in agent.policy.state_dict().values()]


def same(first: Iterable[torch.Tensor], second: Iterable[torch.Tensor]) -> list[bool]:
    return [torch.equal(one, other) for one, other in zip(first, second, strict=True)]


def assert_same_agent(first: AmcDDPG, second: AmcDDPG) -> None:
    assert all(same(weights_of(first), weights_of(second)))
    for name in ("observations", "actions", "rewards", "dones"):
        assert np.array_equal(
            getattr(first.replay_buffer, name), getattr(second.replay_buffer, name)
        )
    assert first.replay_buffer.baseline == second.replay_buffer.baseline
    assert first.exploration.episode == second.exploration.episode


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


def test_sigma_decays_per_episode_from_the_end_of_the_warmup_to_its_floor() -> None:
    exploration = make_exploration()
    sigmas = []
    for _ in range(100):
        sigmas.append(exploration.sigma)
        exploration.finish_episode()
    assert sigmas[:6] == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.475, 0.45125])
    assert sigmas[-1] == 0.02


def test_seed_strategies_come_first_then_uniform_actions_then_noise_around_the_proposal() -> None:
    exploration = make_exploration(first_actions=(0.5, 1.0), sigma=0.02)
    proposal = np.full((1000, 1), 0.3, dtype=np.float32)
    played = []
    for _ in range(4):
        played.append(exploration.act(proposal))
        exploration.finish_episode()
    assert np.all(played[0] == 0.5) and np.all(played[1] == 1.0)
    assert stats.kstest(played[2].ravel(), "uniform").pvalue > 1e-3
    assert abs(played[3].mean() - 0.3) < 0.01 and played[3].std() < 0.05
    assert all(action.dtype == np.float32 for action in played)


@pytest.mark.parametrize(
    "setting",
    [
        {"warmup_episodes": -1},
        {"first_actions": (1.5,)},
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
    for step in range(1, length + 1):
        value = np.full((1, 1), step / 10, dtype=np.float32)
        last = step == length
        earned = np.array([reward if last else 0.0], dtype=np.float32)
        replay.add(value, value, value, earned, np.array([last]), [{}])


def test_an_episode_is_held_back_until_it_is_done_and_then_carries_one_reward() -> None:
    replay = make_replay()
    value, zero = np.ones((1, 1), dtype=np.float32), np.zeros(1, dtype=np.float32)
    replay.add(value, value, value, zero, np.array([False]), [{}])
    assert replay.size() == 0
    replay.drop_unfinished()
    for reward in (0.25, 0.75):
        add_episode(replay, reward)
    assert replay.rewards[:8, 0].tolist() == [0.25] * 4 + [0.75] * 4
    assert replay.dones[:8, 0].tolist() == [0, 0, 0, 1] * 2
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


# ---- the agent


def test_agent_beats_random_search_at_equal_episodes() -> None:
    episodes, targets = 200, (0.1, 0.8, 0.3, 0.9, 0.6, 0.2, 0.7, 0.1, 0.9, 0.4)
    best, late, greedy = [], [], []
    for seed in range(3):
        env = ToyWalk(targets)
        agent = make_agent(env, net_arch=(64, 64), actor_lr=1e-3, warmup_episodes=50, seed=seed)
        rewards: list[float] = []
        agent.learn_episodes(episodes, lambda _, reward, info, seen=rewards: seen.append(reward))
        best.append(max(rewards))
        late.append(np.mean(rewards[-20:]))
        greedy.append(greedy_reward(agent, env))
    strategies = np.random.default_rng(0).random((200, episodes, len(targets)))
    random_best = -np.sum((strategies - targets) ** 2, axis=-1).min(axis=1)  # of 200 searches
    assert np.mean(best) > np.quantile(random_best, 0.9)
    assert np.mean(late) > np.median(random_best)
    assert np.mean(greedy) > np.median(random_best)


def test_first_episode_is_uniform_strategy_and_the_warmup_is_random() -> None:
    env = ToyWalk()
    agent = make_agent(env, warmup_episodes=150)
    before = weights_of(agent)
    agent.learn_episodes(150)
    played = np.array(env.history)
    assert np.all(played[0] == 0.5)
    assert stats.kstest(played[1:].ravel(), "uniform").pvalue > 1e-3
    assert all(same(before, weights_of(agent)))


def test_training_takes_as_many_steps_as_the_episode_and_only_past_the_warmup() -> None:
    agent = make_agent(warmup_episodes=3)
    updates = []
    agent.learn_episodes(6, lambda *_: updates.append(agent._n_updates))
    assert updates == [0, 0, 0, 4, 8, 12]


def test_executed_actions_are_stored() -> None:
    env = ToyWalk(lowest=0.6)
    agent = make_agent(env)
    agent.learn_episodes(10)
    stored = (agent.replay_buffer.actions[: agent.replay_buffer.size(), 0, 0] + 1) / 2
    np.testing.assert_allclose(stored, np.ravel(env.history), atol=1e-6)
    assert stored.min() == pytest.approx(0.6) and (stored < 0.601).sum() > 5


def test_actor_and_critic_keep_their_own_learning_rates() -> None:
    agent = make_agent(warmup_episodes=0, actor_lr=0.0, critic_lr=1e-2)
    actor = [value.clone() for value in agent.actor.parameters()]
    critic = [value.clone() for value in agent.critic.parameters()]
    agent.learn_episodes(3)
    assert all(same(actor, agent.actor.parameters()))
    assert not any(same(critic, agent.critic.parameters()))
    agent = make_agent(warmup_episodes=0)
    agent.learn_episodes(2)
    assert agent.actor.optimizer.param_groups[0]["lr"] == 1e-4
    assert agent.critic.optimizer.param_groups[0]["lr"] == 1e-3


def test_same_seed_gives_the_same_bits_whatever_happens_to_global_generators() -> None:
    def disturb(episode: int, reward: float, info: dict[str, Any]) -> None:
        np.random.seed(episode)
        torch.manual_seed(episode)

    first, second, other = make_agent(seed=3), make_agent(seed=3), make_agent(seed=4)
    first.learn_episodes(12)
    second.learn_episodes(7, disturb)
    second.learn_episodes(5)
    other.learn_episodes(12)
    assert_same_agent(first, second)
    assert not np.array_equal(first.replay_buffer.actions, other.replay_buffer.actions)


def test_a_saved_agent_goes_on_as_if_it_had_never_stopped(tmp_path: Any) -> None:
    straight, stopped = make_agent(), make_agent()
    straight.learn_episodes(12)
    stopped.learn_episodes(8)
    stopped.save(tmp_path / "agent.zip")
    stopped.save_replay_buffer(tmp_path / "replay.pkl")
    resumed = AmcDDPG.load(tmp_path / "agent.zip", env=ToyWalk())
    resumed.load_replay_buffer(tmp_path / "replay.pkl")
    resumed.learn_episodes(4)
    assert_same_agent(straight, resumed)


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


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite, got nan"):
        add_episode(make_replay(), float("nan"))


def test_plain_sb3_learn_still_works() -> None:
    agent = make_agent().learn(total_timesteps=40)
    assert agent.exploration.episode == 10 and agent._n_updates == 20


def test_tensorboard_files_are_written_only_on_request(tmp_path: Any) -> None:
    make_agent(tensorboard_log=str(tmp_path)).learn_episodes(7)
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_defaults_are_those_of_amc() -> None:
    agent = AmcDDPG(ToyWalk())
    assert agent.policy.net_arch == [300, 300] and agent.batch_size == 64
    assert agent.tau == 0.01 and agent.gamma == 1.0 and agent.exploration.warmup_episodes == 50
    assert agent.replay_buffer.buffer_size == 2000 and agent.critic.n_critics == 1


def test_environments_that_do_not_fit_are_refused() -> None:
    env = ToyWalk()
    env.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    with pytest.raises(ValueError, match=r"actions must be a Box\(0, 1\)"):
        AmcDDPG(env)
    env = ToyWalk()
    env.step = lambda action: (env._observe(), 0.0, True, False, {})  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="must put 'executed_action'"):
        make_agent(env).learn_episodes(1)
    with pytest.raises(ValueError, match=r"executed_action must lie in \[0, 1\]"):
        make_agent(ToyWalk(lowest=1.5)).learn_episodes(1)


# ---- policy file


@pytest.fixture
def saved(tmp_path: Any) -> tuple[AmcDDPG, Any]:
    agent = make_agent(warmup_episodes=1)
    agent.learn_episodes(4)
    save_policy(tmp_path / "run.0.5", agent, {"observation_names": ["a", "b", "c", "d", "e"]})
    return agent, tmp_path / "run.0.5"


def test_policy_file_round_trip(saved: tuple[AmcDDPG, Any]) -> None:
    agent, stem = saved
    state = torch.random.get_rng_state()
    policy = load_policy(stem)
    assert torch.equal(state, torch.random.get_rng_state())
    observations = np.random.default_rng(0).random((50, 5), dtype=np.float32)
    expected, _ = agent.predict(observations, deterministic=True)
    assert isinstance(policy, Policy) and policy.predict(observations).shape == (50, 1)
    np.testing.assert_allclose(policy.predict(observations), expected, atol=1e-6)
    np.testing.assert_allclose(policy.predict(observations[7]), expected[7], atol=1e-6)
    assert policy.metadata == {"observation_names": ["a", "b", "c", "d", "e"]}
    assert sorted(path.name for path in stem.parent.iterdir()) == [
        "run.0.5.json",
        "run.0.5.safetensors",
    ]
    with pytest.raises(ValueError, match=r"observation must be \[5\]"):
        policy.predict(np.zeros(4))


def test_saving_again_replaces_the_policy(saved: tuple[AmcDDPG, Any]) -> None:
    agent, stem = saved
    agent.learn_episodes(2)
    save_policy(stem, agent, {})
    observation = np.full(5, 0.5, dtype=np.float32)
    expected, _ = agent.predict(observation, deterministic=True)
    np.testing.assert_allclose(load_policy(stem).predict(observation), expected, atol=1e-6)


def edit_json(stem: Any, **changes: Any) -> None:
    path = stem.with_name(stem.name + ".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version 2 is not the known 1"),
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
    agent = make_agent()
    agent.actor.mu[1] = torch.nn.Tanh()
    with pytest.raises(ValueError, match="ReLU"):
        save_policy(tmp_path / "policy", agent, {})
    assert not list(tmp_path.iterdir())
