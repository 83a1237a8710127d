"""How an SB3 off-policy algorithm learns from walks: whole episodes, one reward, executed actions.

Stable-Baselines3 counts steps; AMC counts episodes, and all of them have the same length: one step
per decision. So the walk is written out here, and the algorithm itself (networks, targets, losses,
optimisers) stays SB3's. The settings belong to `settings.py`, the noise to `exploration.py`, the
rewards to `replay.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import update_learning_rate
from torch import nn

from agents.exploration import Exploration
from agents.policy_file import Policy, actor_layers
from agents.replay import EpisodeReplay

Array = NDArray[Any]
OnEpisode = Callable[[int, float, dict[str, Any]], bool | None]
"""Called as on_episode(episode, reward, info) after an episode and its gradient steps."""


class EpisodicAlgorithm(OffPolicyAlgorithm):
    """Off-policy algorithm that explores, stores and trains episode by episode.

    Mix it in before the SB3 algorithm, `class MyAgent(EpisodicAlgorithm, TD3)`, and call
    `prepare` once it is made. With a vector environment of N walks, N episodes are walked side by
    side by the same policy before it learns from them.

    Attributes:
        exploration: turns the actor's proposal into the action to try; counts the episodes.
        replay_buffer: must be an `EpisodeReplay`.
        actor_lr: Adam step size of the actor; SB3's `learning_rate` drives all other optimisers.
        trainings: how often it has learned from episodes; none during the warm-up.
    """

    exploration: Exploration
    actor_lr: float
    imitated: int
    trainings: int = 0
    _at_start: Any = None

    def prepare(self, exploration: Exploration, actor_lr: float, imitated: int, seed: int) -> None:
        """Set what SB3's constructor does not know."""
        self.exploration, self.actor_lr, self.imitated = exploration, actor_lr, imitated
        self._random = torch.Generator().manual_seed(seed).get_state()
        self.set_logger(Logger(folder=None, output_formats=[]))

    def take_over(self, policy: Policy) -> None:
        """Begin with the actor of a policy that was learned elsewhere.

        Raises:
            ValueError: it has another form than the agent's own.
        """
        own = nn.Sequential(*actor_layers(self))
        theirs = policy.network.state_dict()
        if {k: v.shape for k, v in own.state_dict().items()} != {
            k: v.shape for k, v in theirs.items()
        }:
            raise ValueError("the policy's network has other sizes than the agent's")
        own.load_state_dict(theirs)
        target = getattr(self, "actor_target", None)
        if target is not None:
            target.load_state_dict(self.actor.state_dict())

    def learn_episodes(self, n_episodes: int, on_episode: OnEpisode | None = None) -> None:
        """Walk at least `n_episodes` more whole episodes, warm-up included, training after each.

        When `on_episode` runs, the agent stands between two episodes. A walk that breaks off by
        an exception is forgotten.

        Args:
            n_episodes: how many episodes to finish.
            on_episode: called with the episode's index since the agent was made, its reward and
                the `info` of its last step. Returning False stops the search.
        """
        finished = 0
        while finished < n_episodes:
            first = self.exploration.episode
            rewards, infos = self._walk()
            if self.exploration.past_warmup:
                with self._own_randomness():
                    steps = self._decisions * len(infos)
                    self.train(steps, self.batch_size)
                    self._imitate(steps)
                self.trainings += 1
            finished += len(infos)
            for offset, (reward, info) in enumerate(zip(rewards, infos, strict=True)):
                if on_episode is not None and on_episode(first + offset, reward, info) is False:
                    return

    def _walk(self) -> tuple[list[float], list[dict[str, Any]]]:
        """Walk one episode per environment and store them; their rewards and last infos."""
        assert self.env is not None and isinstance(self.replay_buffer, EpisodeReplay)
        seen, actions, total = [], [], np.zeros(self.env.num_envs)
        if self._at_start is None:
            self._at_start = self.env.reset()
        observation, done = self._at_start, False
        self._at_start = None  # unknown, should the walk break off
        self.exploration.start(self.env.num_envs)
        while not done:
            with self._own_randomness():
                proposal, _ = self.predict(np.asarray(observation), deterministic=False)  # [N, A]
            seen.append(np.asarray(observation))
            observation, rewards, dones, infos = self.env.step(self.exploration.act(proposal))
            actions.append(_executed(infos, proposal))
            total += rewards
            done = bool(dones.any())
            if done != bool(dones.all()):
                raise ValueError("walks side by side must all have the same number of decisions")
        self._at_start = observation  # a vector environment begins the next walk by itself
        self._decisions = len(actions)
        walked, taken = np.stack(seen, axis=1), np.stack(actions, axis=1)  # [N, L, S], [N, L, A]
        for i, info in enumerate(infos):
            self.replay_buffer.add_episode(
                walked[i],
                self.policy.scale_action(taken[i]),
                info["terminal_observation"],
                float(total[i]),
            )
        self.exploration.finish(total.tolist(), list(taken), list(walked))
        return total.tolist(), infos

    def _imitate(self, gradient_steps: int) -> None:
        """Draw the actor towards what the best episodes did (Oh et al. 2018, arXiv:1806.05635)."""
        if not self.imitated:
            return
        seen, actions = self.exploration.best(self.imitated)
        states = torch.as_tensor(seen, device=self.device)
        wished = torch.as_tensor(self.policy.scale_action(actions), device=self.device)
        optimiser = self.actor.optimizer
        assert isinstance(optimiser, torch.optim.Optimizer)
        for _ in range(gradient_steps):
            loss = torch.nn.functional.mse_loss(self.actor(states), wished)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Runs SB3's code, which draws from torch's global generator, on a private state."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            yield
            self._random = torch.get_rng_state()

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        """Give the actor its own rate: SB3 sets one for all at the start of every training."""
        super()._update_learning_rate(optimizers)
        actor_optimizer = self.actor.optimizer
        assert isinstance(actor_optimizer, torch.optim.Optimizer)
        update_learning_rate(actor_optimizer, self.actor_lr)


def _executed(infos: list[dict[str, Any]], like: Array) -> NDArray[np.float32]:
    """The actions that were carried out after clip and rounding, not those proposed, [N, A]."""
    if not all("executed_action" in info for info in infos):
        raise ValueError("the environment must put 'executed_action' into each step's info")
    executed = np.stack([np.asarray(info["executed_action"], np.float32) for info in infos])
    if not np.all((executed >= 0.0) & (executed <= 1.0)):
        raise ValueError(f"executed_action must lie in [0, 1], got {executed}")
    return executed.reshape(like.shape)


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
