"""The agents: DDPG as AMC uses it, TD3 and SAC, each Stable-Baselines3's own algorithm.

This file only says with which settings they run and that they learn by whole episodes.
"""

from collections.abc import Sequence
from dataclasses import replace

from gymnasium import Env
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.vec_env import VecEnv

from agents.episodic import EpisodicAlgorithm, check_spaces
from agents.exploration import Suggest
from agents.settings import Settings

Demonstrations = Sequence[Sequence[float]]


class AmcDDPG(EpisodicAlgorithm, DDPG):
    """DDPG over walks of L decisions that earn one reward at their end.

    Deep deterministic policy gradient (Lillicrap et al. 2015, arXiv:1509.02971) as AMC uses it
    (He et al. 2018, arXiv:1802.03494, section 3.2).

    After the episodes past the warm-up it takes L gradient steps on
    y = (R - b) + gamma * (1 - done) * Q'(s', mu'(s')). The same seed gives the same actions and
    weights bit for bit, whatever other code does to the global generators later; making an agent
    seeds those, as every SB3 algorithm does.

    Example:
        >>> agent = AmcDDPG(env, seed=0)
        >>> agent.learn_episodes(400, on_episode=lambda episode, reward, info: None)
        >>> action, _ = agent.predict(observation, deterministic=True)

    Args:
        env: observations Box(S,), actions Box(0, 1, (A,)); each step's
            `info["executed_action"]` holds the action really carried out, [A]. A vector of
            environments is walked side by side; their walks must have the same length.
        settings: see `Settings`.
        demonstrations: actions of the first episodes, one sequence per episode.
        suggest: actions of episodes that are not the actor's own, see `Exploration`.
        seed: of the weights, the exploration, the mini-batches and the environment.

    Raises:
        ValueError: the environment's spaces or a setting do not fit.
    """

    def __init__(
        self,
        env: Env | VecEnv,
        settings: Settings | None = None,
        demonstrations: Demonstrations = (),
        suggest: Suggest | None = None,
        seed: int = 0,
    ) -> None:
        settings = settings or Settings()
        check_spaces(env.observation_space, env.action_space)
        super().__init__(env=env, **settings.algorithm(seed))
        exploration = settings.exploration(demonstrations, suggest, seed)
        self.prepare(exploration, settings.actor_lr, settings.imitated, seed)


class AmcTD3(EpisodicAlgorithm, TD3):
    """Twin delayed DDPG (Fujimoto et al. 2018, arXiv:1802.09477); otherwise as `AmcDDPG`."""

    def __init__(
        self,
        env: Env | VecEnv,
        settings: Settings | None = None,
        demonstrations: Demonstrations = (),
        suggest: Suggest | None = None,
        seed: int = 0,
    ) -> None:
        settings = settings or Settings()
        check_spaces(env.observation_space, env.action_space)
        super().__init__(env=env, **settings.algorithm(seed))
        exploration = settings.exploration(demonstrations, suggest, seed)
        self.prepare(exploration, settings.actor_lr, settings.imitated, seed)


class AmcSAC(EpisodicAlgorithm, SAC):
    """Soft actor-critic (Haarnoja et al. 2018, arXiv:1801.01290); otherwise as `AmcDDPG`.

    After the warm-up its own stochastic policy explores; no noise is added.
    """

    def __init__(
        self,
        env: Env | VecEnv,
        settings: Settings | None = None,
        demonstrations: Demonstrations = (),
        suggest: Suggest | None = None,
        seed: int = 0,
    ) -> None:
        settings = replace(settings or Settings(), sigma=0.0, sigma_min=0.0)
        check_spaces(env.observation_space, env.action_space)
        super().__init__(env=env, **settings.algorithm(seed))
        exploration = settings.exploration(demonstrations, suggest, seed)
        self.prepare(exploration, settings.actor_lr, settings.imitated, seed)


AGENTS: dict[str, type[AmcDDPG] | type[AmcTD3] | type[AmcSAC]] = {
    "ddpg": AmcDDPG,
    "td3": AmcTD3,
    "sac": AmcSAC,
}
