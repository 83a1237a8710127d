"""A replay buffer of whole episodes that all carry one reward.

The walk over a network earns its reward only at the end. AMC (He et al. 2018, arXiv:1802.03494,
section 3.2) writes this final reward on every transition of the episode, as Block-QNN does, and
subtracts a moving baseline b from it when the critic is trained: the target is
(R - b) + gamma * Q'(s', mu'(s')). An episode therefore waits outside the ring until it is done.
"""

from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

Array = NDArray[Any]
Baseline = Literal["rank", "episode", "batch", "none"]
RewardOn = Literal["every", "last"]


class EpisodeReplay(ReplayBuffer):
    """Ring of transitions that is written one finished episode at a time.

    The ring stores the true episode reward R on every transition; the baseline is subtracted from
    the samples only, so that all of them share the newest one. b is an exponential moving average,
    b <- decay * b + (1 - decay) * x, that starts at the first x:

    * `"episode"`: x is the reward of each finished episode (PocketFlow, decay 0.95). The target
      moves once per episode and stands still during its gradient steps, so this is our default.
    * `"batch"`: x is the mean reward of each sampled mini-batch (AMC's code, decay 0.5).
    * `"none"`: b stays 0.
    * `"rank"`: R is replaced by its rank among all episodes so far, from -1 to 1. Free of the
      reward's scale, and outliers of bad episodes do not drown what tells the good ones apart.

    With `reward_on="last"` the samples carry R - b on the last transition and 0 elsewhere. At
    gamma = 1 both choices have the same best policy.

    Args:
        buffer_size: least capacity of the ring in transitions.
        observation_space: space of the observations, [S].
        action_space: space of the actions, [A].
        device: where the samples go.
        n_envs: ignored: episodes that are walked side by side are stored one after the other.
        optimize_memory_usage: not supported; SB3 passes it to every buffer.
        buffer_episodes: least capacity in episodes. The ring learns their length from the first
            one and grows for a longer one as long as it has not been full.
        reward_on: `"every"` or `"last"` transition of an episode.
        baseline: `"episode"`, `"batch"` or `"none"`.
        baseline_decay: weight of the old baseline, in [0, 1).
        seed: of the private sampling generator.

    Attributes:
        baseline: b, or None before the first reward.
        last_reward: R of the newest stored episode.
        rng: the private generator of the mini-batches.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        buffer_episodes: int,
        reward_on: RewardOn,
        baseline: Baseline,
        baseline_decay: float,
        seed: int | list[int],
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("EpisodeReplay does not support optimize_memory_usage")
        if reward_on not in ("every", "last"):
            raise ValueError(f"reward_on must be 'every' or 'last', got {reward_on!r}")
        if baseline not in get_args(Baseline):
            allowed = ", ".join(map(repr, get_args(Baseline)))
            raise ValueError(f"baseline must be one of {allowed}, got {baseline!r}")
        if not 0.0 <= baseline_decay < 1.0:
            raise ValueError(f"baseline_decay must be in [0, 1), got {baseline_decay}")
        # A walk has no meaning beyond its last decision, so a time-out is an end like any other.
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            handle_timeout_termination=False,
        )
        self.buffer_episodes = buffer_episodes
        self.reward_on = reward_on
        self.baseline_kind = baseline
        self.baseline_decay = baseline_decay
        self.baseline: float | None = None
        self.last_reward = 0.0
        self.rng = np.random.default_rng(seed)
        self._episodes: list[float] = []

    def add_episode(
        self, observations: Array, actions: Array, last_observation: Array, reward: float
    ) -> None:
        """Store one finished walk of L decisions.

        Args:
            observations: [L, S], before each decision.
            actions: [L, A], carried out, in SB3's [-1, 1] scale.
            last_observation: [S], after the last decision.
            reward: R of the whole walk.

        Raises:
            ValueError: the reward is not finite; one such value would spoil the baseline for good.
        """
        if not np.isfinite(reward):
            raise ValueError(f"the reward of an episode must be finite, got {reward}")
        self._make_room(len(actions))
        following = [*observations[1:], last_observation]
        for step, row in enumerate(zip(observations, following, actions, strict=True), start=1):
            obs, next_obs, action = (part[None] for part in row)
            done = np.array([step == len(actions)])
            super().add(obs, next_obs, action, np.array([reward]), done, [{}])
        self.last_reward = float(reward)
        self._episodes.append(self.last_reward)
        if self.baseline_kind == "episode":
            self._move_baseline(self.last_reward)

    def _make_room(self, episode_length: int) -> None:
        """Enlarge the ring to `buffer_episodes` episodes, while its rows are still in order."""
        missing = self.buffer_episodes * episode_length - self.buffer_size
        if missing <= 0 or self.full:
            return
        for name in ("observations", "next_observations", "actions", "rewards", "dones"):
            rows: Array = getattr(self, name)  # [capacity, 1, ...]
            padding = np.zeros((missing, *rows.shape[1:]), dtype=rows.dtype)
            setattr(self, name, np.concatenate([rows, padding]))
        self.buffer_size += missing

    def _move_baseline(self, reward: float) -> None:
        """Take one step of the moving average; the first reward is taken as it is."""
        old = reward if self.baseline is None else self.baseline
        self.baseline = self.baseline_decay * old + (1.0 - self.baseline_decay) * reward

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw transitions uniformly with replacement, their rewards less the baseline.

        Args:
            batch_size: B, number of transitions.
            env: must be None: observations and rewards are stored and used as they are.

        Returns:
            Observations [B, S], actions [B, A] in SB3's [-1, 1] scale, next observations [B, S],
            dones [B, 1] and rewards [B, 1], all float32.
        """
        if env is not None:
            raise ValueError("EpisodeReplay cannot normalise: do not wrap the env in VecNormalize")
        rows = self.rng.integers(self.size(), size=batch_size)
        rewards, dones = self.rewards[rows], self.dones[rows]  # [B, 1]
        if self.baseline_kind == "batch":
            self._move_baseline(float(rewards.mean()))
        if self.baseline_kind == "rank":
            order = np.sort(np.asarray(self._episodes, dtype=rewards.dtype))
            middle = np.searchsorted(order, rewards, "left") + np.searchsorted(
                order, rewards, "right"
            )
            rewards = (middle / len(order) - 1.0).astype(np.float32)
        else:
            rewards = rewards - (self.baseline or 0.0)
        if self.reward_on == "last":
            rewards = rewards * dones
        batch = (
            self.observations[rows, 0],
            self.actions[rows, 0],
            self.next_observations[rows, 0],
            dones,
            rewards,
        )
        return ReplayBufferSamples(*(torch.from_numpy(part).to(self.device) for part in batch))
