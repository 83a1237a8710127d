"""The agents on a toy walk whose best policy is known."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import (
    AGENTS,
)
from toy_walk import (
    TARGETS,
    Suggest,
    ToyWalk,
    every_agent,
    greedy_reward,
    make_agent,
    same,
    wander,
    weights_of,
)


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
