"""How an SB3 off-policy algorithm learns from walks: whole episodes, one reward, executed actions.

Stable-Baselines3 counts steps; AMC counts episodes. This class sits between an SB3 algorithm and
its base class and overrides the hooks where the two differ. It decides no number: the settings
belong to the algorithm (`ddpg.py`), the noise to `exploration.py`, the rewards to `replay.py`.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq
from stable_baselines3.common.utils import update_learning_rate

from agents.exploration import Exploration
from agents.replay import EpisodeReplay

Array = NDArray[Any]
OnEpisode = Callable[[int, float, dict[str, Any]], bool | None]
"""Called as on_episode(episode, reward, info) after an episode and its gradient steps."""


class EpisodicAlgorithm(OffPolicyAlgorithm):
    """Off-policy algorithm that explores, stores and trains episode by episode.

    Mix it in before the SB3 algorithm, `class MyAgent(EpisodicAlgorithm, TD3)`, and set the
    attributes below. The private methods overridden here are SB3's own extension points in all but
    name; the tests guard their behaviour.

    Attributes:
        exploration: turns the actor's proposal into the action to try; counts the episodes.
        replay_buffer: must be an `EpisodeReplay`.
        actor_lr: Adam step size of the actor; SB3's `learning_rate` drives all other optimisers.
    """

    exploration: Exploration
    actor_lr: float

    def learn_episodes(self, n_episodes: int, on_episode: OnEpisode | None = None) -> None:
        """Walk `n_episodes` more whole episodes, warm-up included, training after each.

        When `on_episode` runs, the agent stands between two episodes: what is saved there can be
        continued exactly. A walk that breaks off by an exception is forgotten.

        Args:
            n_episodes: how many episodes to finish.
            on_episode: called with the episode's index since the agent was made, its reward (as
                float32, which is all SB3 keeps) and the `info` of its last step. Returning False
                stops the search.
        """
        # SB3 wants a number of steps, which matters to schedules only: none is used here.
        name = type(self).__name__
        _, callback = self._setup_learn(sys.maxsize, None, False, tb_log_name=name)
        replay = self._episode_replay()
        assert self.env is not None and isinstance(self.train_freq, TrainFreq)
        for _ in range(n_episodes):
            rollout = self.collect_rollouts(
                self.env, callback, self.train_freq, replay, log_interval=1
            )
            self.train(rollout.episode_timesteps, self.batch_size)
            if on_episode is not None:
                info = callback.locals["infos"][0]
                if on_episode(self.exploration.episode - 1, replay.last_reward, info) is False:
                    return

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Take the gradient steps of the episode just finished, unless it was a warm-up one."""
        if self.exploration.past_warmup:
            super().train(gradient_steps, batch_size)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """Walk one episode; if it breaks off, forget it and let the next one start by a reset."""
        finished = self.exploration.episode
        try:
            return super().collect_rollouts(*args, **kwargs)
        finally:
            if self.exploration.episode == finished:
                self._episode_replay().drop_unfinished()
                self._last_obs = None

    def _episode_replay(self) -> EpisodeReplay:
        assert isinstance(self.replay_buffer, EpisodeReplay)
        return self.replay_buffer

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """Log to nowhere unless asked: SB3 would leave an empty temporary folder at each call."""
        if self.tensorboard_log is None and self.verbose == 0 and not self._custom_logger:
            self.set_logger(Logger(folder=None, output_formats=[]))
        return super()._setup_learn(*args, **kwargs)

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        """Give the actor its own rate: SB3 sets one for all at the start of every training."""
        super()._update_learning_rate(optimizers)
        actor_optimizer = self.actor.optimizer
        assert isinstance(actor_optimizer, torch.optim.Optimizer)
        update_learning_rate(actor_optimizer, self.actor_lr)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[Array, Array]:
        """Return the explored action twice: in [0, 1] for the environment, in [-1, 1] to store."""
        assert self._last_obs is not None
        proposal, _ = self.predict(self._last_obs, deterministic=False)  # [1, A]
        action = self.exploration.act(proposal)
        return action, self.policy.scale_action(action)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: Array,
        new_obs: Array | dict[str, Array],
        reward: Array,
        dones: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store the action that was executed after clip and rounding, not the one proposed."""
        if "executed_action" not in infos[0]:
            raise ValueError("the environment must put 'executed_action' into each step's info")
        executed = np.asarray(infos[0]["executed_action"], dtype=np.float32)
        if not np.all((executed >= 0.0) & (executed <= 1.0)):
            raise ValueError(f"executed_action must lie in [0, 1], got {executed}")
        buffer_action = self.policy.scale_action(executed.reshape(buffer_action.shape))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if dones[0]:
            self.exploration.finish_episode()


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Check that observations are flat vectors and that actions are flat and bounded by 0 and 1.

    Raises:
        ValueError: one of the spaces does not fit.
    """
    if not (isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1):
        raise ValueError(f"observations must be a Box of shape (S,), got {observation_space}")
    if not (
        isinstance(action_space, spaces.Box)
        and len(action_space.shape) == 1
        and np.all(action_space.low == 0.0)
        and np.all(action_space.high == 1.0)
    ):
        raise ValueError(f"actions must be a Box(0, 1) of shape (A,), got {action_space}")
