"""The AMC agent: DDPG with every setting of the search visible in one constructor.

Deep deterministic policy gradient (Lillicrap et al. 2015, arXiv:1509.02971) as AMC uses it (He et
al. 2018, arXiv:1802.03494, section 3.2). The algorithm itself is Stable-Baselines3's; this file
only says with which numbers it runs.
"""

from collections.abc import Sequence

import torch
from gymnasium import Env
from stable_baselines3 import DDPG
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.td3.policies import TD3Policy

from agents.episodic import EpisodicAlgorithm, check_spaces
from agents.exploration import Exploration
from agents.replay import Baseline, EpisodeReplay, RewardOn


class AmcDDPG(EpisodicAlgorithm, DDPG):
    """DDPG over walks of L decisions that earn one reward at their end.

    After each finished episode past the warm-up it takes L gradient steps on
    y = (R - b) + gamma * (1 - done) * Q'(s', mu'(s')). The same seed gives the same actions and
    weights bit for bit, whatever other code does to the global generators later; making an agent
    seeds those, as every SB3 algorithm does.

    Example:
        >>> agent = AmcDDPG(env, seed=0)
        >>> agent.learn_episodes(400, on_episode=lambda episode, reward, info: None)
        >>> action, _ = agent.predict(observation, deterministic=True)

    Args:
        env: observations Box(S,), actions Box(0, 1, (A,)); each step's
            `info["executed_action"]` holds the action really carried out, [A].
        net_arch: widths of the hidden layers of actor and critic.
        actor_lr: Adam step size of the actor.
        critic_lr: Adam step size of the critic.
        batch_size: transitions per gradient step.
        tau: share of the online weights mixed into the target networks at each gradient step.
        gamma: discount; 1 because the walk is finite and its reward belongs to all decisions.
        warmup_episodes: episodes without training; AMC's code has about 100, PocketFlow 50.
        first_actions: constant actions of the first episodes, one per episode, part of the
            warm-up; 0.5 is what an environment centres on the uniform strategy.
        sigma: standard deviation of the exploration at the end of the warm-up, in action units.
        sigma_decay: its factor per episode.
        sigma_min: its floor.
        reward_on: see `EpisodeReplay`.
        baseline: see `EpisodeReplay`.
        baseline_decay: see `EpisodeReplay`; AMC's code has 0.5 with `baseline="batch"`.
        buffer_size: transitions that the replay holds at least.
        buffer_episodes: episodes that the replay holds at least.
        seed: of the weights, the exploration, the mini-batches and the environment.
        device: the CPU by default: networks this small lose more by transfers than a GPU gains.
        tensorboard_log: folder for SB3's own TensorBoard files, or None.
        verbose: SB3's verbosity.
        policy: SB3's policy class or its name.
        _init_setup_model: SB3's `load` builds the networks later.

    Raises:
        ValueError: the environment's spaces or a setting do not fit.
    """

    def __init__(
        self,
        env: Env | VecEnv | None,
        *,
        net_arch: Sequence[int] = (300, 300),
        actor_lr: float = 1e-4,
        critic_lr: float = 1e-3,
        batch_size: int = 64,
        tau: float = 0.01,
        gamma: float = 1.0,
        warmup_episodes: int = 50,
        first_actions: Sequence[float] = (0.5,),
        sigma: float = 0.5,
        sigma_decay: float = 0.95,
        sigma_min: float = 0.02,
        reward_on: RewardOn = "every",
        baseline: Baseline = "episode",
        baseline_decay: float = 0.95,
        buffer_size: int = 2000,
        buffer_episodes: int = 100,
        seed: int = 0,
        device: torch.device | str = "cpu",
        tensorboard_log: str | None = None,
        verbose: int = 0,
        policy: str | type[TD3Policy] = "MlpPolicy",
        _init_setup_model: bool = True,
    ) -> None:
        if env is not None:
            check_spaces(env.observation_space, env.action_space)
        super().__init__(
            policy=policy,
            env=env,  # type: ignore[arg-type]  # None while SB3 loads a saved agent
            learning_rate=critic_lr,
            buffer_size=buffer_size,
            learning_starts=0,  # the warm-up is counted in episodes, see EpisodicAlgorithm.train
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=(1, "episode"),
            gradient_steps=-1,  # as many as the episode has steps
            replay_buffer_class=EpisodeReplay,
            replay_buffer_kwargs={
                "buffer_episodes": buffer_episodes,
                "reward_on": reward_on,
                "baseline": baseline,
                "baseline_decay": baseline_decay,
                "seed": [seed, 1],
            },
            policy_kwargs={
                "net_arch": list(net_arch),
                # One kernel per step instead of many: a sixth off the time of a gradient step.
                "optimizer_kwargs": {"fused": True},
            },
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )
        self.actor_lr = actor_lr
        self.exploration = Exploration(
            warmup_episodes=warmup_episodes,
            first_actions=first_actions,
            sigma=sigma,
            sigma_decay=sigma_decay,
            sigma_min=sigma_min,
            seed=[seed, 0],
        )
