"""Several environments walked in turn by one agent."""

from collections.abc import Sequence
from typing import Any

import gymnasium

from envs.channel_pruning import Array, ChannelPruningEnv
from envs.rewards import gain


class Rotation(gymnasium.Env[Array, Array]):
    """One episode of each environment after the other, over and over.

    Budgets and networks differ in what they make of a reward. So the first episode of every
    environment (the uniform strategy, if it is demonstrated) sets its standard, and an episode
    earns what it gains over it, see `gain`.

    Args:
        walks: environments with the same spaces.

    Attributes:
        current: number of the environment that is walked.
        standards: first reward of every environment that has one.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium declares it so

    def __init__(self, walks: Sequence[ChannelPruningEnv]) -> None:
        self._walks, self.current = walks, -1
        self.standards: dict[int, float] = {}
        self.observation_space = walks[0].observation_space
        self.action_space = walks[0].action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts a walk in the next environment, with a seed in the first."""
        super().reset(seed=seed)
        if seed is not None:
            self.current = -1
        self.current = (self.current + 1) % len(self._walks)
        return self._walks[self.current].reset(seed=seed, options=options)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """A step of the current environment, its last reward as a gain."""
        seen, reward, done, stopped, info = self._walks[self.current].step(action)
        if done:
            reward = gain(reward, self.standards.setdefault(self.current, reward))
        return seen, reward, done, stopped, info
