"""A walk whose best policy is known, agents on it, and everything that they hold."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import (
    AGENTS,
    EpisodicAlgorithm,
    Exploration,
    Settings,
)

TARGETS = (0.1, 0.8, 0.3, 0.9)

Suggest = Callable[[np.random.Generator], Sequence[float]]

PLAIN: dict[str, Any] = {
    "net_arch": (32, 32), "warmup_episodes": 5, "gamma": 1.0, "sigma": 0.5, "baseline": "episode",
    "elite": 0.0, "imitated": 0,
}  # fmt: skip
"""An agent that learns by its critic alone, and adds noise to its own actions alone."""


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


def make_agent(
    env: Any = None,
    kind: str = "ddpg",
    demonstrations: Sequence[Sequence[float]] = (),
    seed: int = 0,
    suggest: Suggest | None = None,
    **settings: Any,
) -> EpisodicAlgorithm:
    chosen = Settings(**{**PLAIN, **settings})
    return AGENTS[kind](env or ToyWalk(), chosen, demonstrations, suggest, seed)


def state_of(agent: EpisodicAlgorithm) -> dict[str, Any]:
    """Everything that decides how the agent goes on."""
    optimizers = {"actor": agent.actor.optimizer, "critic": agent.critic.optimizer}
    if getattr(agent, "ent_coef_optimizer", None) is not None:
        optimizers["entropy"] = agent.ent_coef_optimizer
        optimizers["weight"] = torch.optim.SGD([agent.log_ent_coef])  # its value
    moments = {
        (name, i, key): value.clone() if isinstance(value, torch.Tensor) else value
        for name, optimizer in optimizers.items()
        for i, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"])
        for key, value in {**optimizer.state[parameter], "value": parameter.detach()}.items()
    }
    replay = agent.replay_buffer
    return {
        **moments,
        **agent.policy.state_dict(),
        **{
            name: getattr(replay, name) for name in ("observations", "actions", "rewards", "dones")
        },
        "place": (replay.pos, replay.full, replay.baseline, replay.last_reward),
        "sampling": replay.rng.bit_generator.state,
        "torch": agent._random,
        "episode": agent.exploration.episode,
        "rewards": agent.exploration.rewards,
        "walked": np.array(agent.exploration.actions),
        "seen": np.array(agent.exploration.observations),
    }


def assert_same_state(first: EpisodicAlgorithm, second: EpisodicAlgorithm) -> None:
    one, other = state_of(first), state_of(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor | np.ndarray):
            assert np.array_equal(np.asarray(value), np.asarray(other[name])), name
        else:
            assert value == other[name], name


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


def wander(rng: np.random.Generator) -> list[float]:
    """Suggests four random actions."""
    return rng.random(4).tolist()
