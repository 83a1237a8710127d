"""Reinforcement-learning environments for channel pruning, on the gymnasium interface."""

import gymnasium

from envs.channel_pruning import ChannelPruningEnv
from envs.outcome import Episode, Outcome
from envs.rewards import REWARDS, Reward, gain
from envs.rotation import Rotation
from envs.side_by_side import SideBySide

__all__ = [
    "REWARDS",
    "ChannelPruningEnv",
    "Episode",
    "Outcome",
    "Reward",
    "Rotation",
    "SideBySide",
    "gain",
]

gymnasium.register(id="amc/ChannelPruning-v0", entry_point="envs:ChannelPruningEnv")
