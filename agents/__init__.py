"""Reinforcement-learning agents that walk a network and choose a ratio at every decision.

Independent of the rest of the project: any Gymnasium environment will do whose actions lie in
[0, 1], whose reward comes at the end of an episode and whose `info["executed_action"]` tells what
was really done.
"""

from agents.algorithms import AGENTS, AmcDDPG, AmcSAC, AmcTD3
from agents.episodic import EpisodicAlgorithm, OnEpisode
from agents.exploration import Exploration, sample_truncated_normal
from agents.policy_file import Policy, load_policy, save_policy
from agents.replay import EpisodeReplay
from agents.settings import Settings

__all__ = [
    "AGENTS",
    "AmcDDPG",
    "AmcSAC",
    "AmcTD3",
    "EpisodeReplay",
    "EpisodicAlgorithm",
    "Exploration",
    "OnEpisode",
    "Policy",
    "Settings",
    "load_policy",
    "sample_truncated_normal",
    "save_policy",
]
