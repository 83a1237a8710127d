"""The numbers of a search by an off-policy agent: AMC's, and where ours differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.exploration import Exploration, Suggest
from agents.replay import Baseline, EpisodeReplay, RewardOn


@dataclass(frozen=True)
class Settings:
    """Every setting of an agent.

    Attributes:
        net_arch: widths of the hidden layers of actor and critic.
        actor_lr: Adam step size of the actor.
        critic_lr: Adam step size of the critic.
        batch_size: transitions per gradient step.
        tau: share of the online weights mixed into the target networks at each gradient step.
        gamma: discount.
        warmup_episodes: episodes without training; AMC's code has about 100, PocketFlow 50.
        narrow_warmup: random episodes have spreads of their own, see `Exploration`; otherwise
            they are U[0, 1] throughout, as published.
        sigma: standard deviation of the exploration at the end of the warm-up, in action units.
        sigma_decay: its factor per episode.
        sigma_min: its floor.
        elite: share of the episodes that play suggestions, see `Exploration`.
        imitated: the actor is drawn towards this many best episodes; 0 for none.
        reward_on: see `EpisodeReplay`.
        baseline: see `EpisodeReplay`.
        baseline_decay: see `EpisodeReplay`.
        buffer_size: transitions that the replay holds at least.
        buffer_episodes: episodes that the replay holds at least.
    """

    net_arch: tuple[int, ...] = (64, 64)
    actor_lr: float = 1e-3
    critic_lr: float = 1e-3
    batch_size: int = 64
    tau: float = 0.01
    gamma: float = 0.0
    warmup_episodes: int = 10
    narrow_warmup: bool = True
    sigma: float = 0.2
    sigma_decay: float = 0.98
    sigma_min: float = 0.06
    elite: float = 0.9
    imitated: int = 10
    reward_on: RewardOn = "every"
    baseline: Baseline = "rank"
    baseline_decay: float = 0.95
    buffer_size: int = 2000
    buffer_episodes: int = 100

    def algorithm(self, seed: int) -> dict[str, Any]:
        """Arguments of the constructor of an SB3 off-policy algorithm."""
        return {
            "policy": "MlpPolicy",
            "learning_rate": self.critic_lr,
            "buffer_size": self.buffer_size,
            "batch_size": self.batch_size,
            "tau": self.tau,
            "gamma": self.gamma,
            "replay_buffer_class": EpisodeReplay,
            "replay_buffer_kwargs": {
                "buffer_episodes": self.buffer_episodes,
                "reward_on": self.reward_on,
                "baseline": self.baseline,
                "baseline_decay": self.baseline_decay,
                "seed": [seed, 1],
            },
            "policy_kwargs": {
                "net_arch": list(self.net_arch),
                # One kernel per step instead of many: a sixth off the time of a gradient step.
                "optimizer_kwargs": {"fused": True},
            },
            "seed": seed,
            # networks this small lose more by transfers than a GPU gains
            "device": "cpu",
        }

    def exploration(
        self, demonstrations: Sequence[Sequence[float]], suggest: Suggest | None, seed: int
    ) -> Exploration:
        """The schedule of random and noisy actions."""
        return Exploration(
            warmup_episodes=self.warmup_episodes,
            demonstrations=demonstrations,
            sigma=self.sigma,
            sigma_decay=self.sigma_decay,
            sigma_min=self.sigma_min,
            seed=[seed, 0],
            narrow_warmup=self.narrow_warmup,
            elite=self.elite,
            suggest=suggest,
        )
