"""Which action an episode really tries, given the one the actor proposes.

AMC (He et al. 2018, arXiv:1802.03494, section 3.2) first walks some episodes at random, then draws
every action from a normal distribution truncated to [0, 1] around the actor's output, with a
standard deviation that shrinks from episode to episode. Everything here is counted in episodes,
never in steps, and works in action space, so that no probability piles up on the bounds as it does
when noise is added and clipped. Nothing here knows an agent: any algorithm that proposes an action
can use it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float32]
Suggest = Callable[[np.random.Generator], Sequence[float]]
"""Actions of a whole episode, one per step, drawn with the episode's own generator."""


def sample_truncated_normal(
    rng: np.random.Generator, mean: NDArray[np.floating], sigma: float
) -> NDArray[np.float64]:
    """Draw from N(mean, sigma^2) truncated to [0, 1], by inverting its distribution function.

    With Phi the standard normal CDF and u ~ U[0, 1): mean + sigma * Phi^-1(lo + u (hi - lo)),
    where lo = Phi(-mean / sigma) and hi = Phi((1 - mean) / sigma). Because the mean lies inside
    the interval, lo <= 1/2 <= hi and the inversion never works in a far tail: it is safe for every
    sigma, and sigma = 0 gives the mean itself.

    Args:
        rng: source of randomness; one uniform number is drawn per element.
        mean: centre of the distribution before truncation, in [0, 1], any shape.
        sigma: standard deviation before truncation, >= 0.

    Returns:
        Samples in [0, 1], the shape of `mean`.
    """
    centre = np.asarray(mean, dtype=np.float64)
    uniform = rng.random(centre.shape)
    if sigma == 0.0:
        return centre
    low, high = ndtr(-centre / sigma), ndtr((1.0 - centre) / sigma)
    sample: NDArray[np.float64] = centre + sigma * ndtri(low + uniform * (high - low))
    # Rounding can push the last bit over a bound, or turn a quantile next to 1 into infinity.
    return sample.clip(0.0, 1.0)


class Exploration:
    """Demonstrations, then random episodes, then truncated normal noise around the actor.

    Episode e (from 0) plays

    * `demonstrations[e]`, one action per step, while e < len(demonstrations);
    * from then on, with probability `elite`, what `suggest` says: good episodes may be known from
      elsewhere than the actor, and it sees what lies around them wherever it stands (a population
      beside an agent: Khadka & Tumer 2018, arXiv:1805.07917);
    * else random actions around 0.5, while e < warmup_episodes: each episode has its own spread,
      drawn from U[0, 1], and independent actions in 0.5 +- spread / 2;
    * else a truncated normal around the actor's proposal, sigma(e) = max(sigma_min, sigma *
      decay^(e - warmup_episodes)).

    Every episode draws from a generator of its own, made from the seed and its number, so that
    episodes that are walked side by side draw what they would draw one after the other.

    Attributes:
        episode: number of finished episodes, which is also the index of the (first) running one.
        rewards, actions, observations: of the finished episodes; actions [L, A] as they were
            carried out, observations [L, S].
    """

    def __init__(
        self,
        *,
        warmup_episodes: int,
        demonstrations: Sequence[Sequence[float]],
        sigma: float,
        sigma_decay: float,
        sigma_min: float,
        seed: int | Sequence[int],
        narrow_warmup: bool = True,
        elite: float = 0.0,
        suggest: Suggest | None = None,
    ) -> None:
        if warmup_episodes < 0:
            raise ValueError(f"warmup_episodes must be >= 0, got {warmup_episodes}")
        if not all(0.0 <= action <= 1.0 for actions in demonstrations for action in actions):
            raise ValueError("demonstrations must lie in [0, 1]")
        if not 0.0 <= sigma_min <= sigma < np.inf:
            raise ValueError(f"need 0 <= sigma_min <= sigma, got {sigma_min} and {sigma}")
        if not 0.0 < sigma_decay <= 1.0:
            raise ValueError(f"sigma_decay must be in (0, 1], got {sigma_decay}")
        self.warmup_episodes = warmup_episodes
        self.demonstrations = tuple(tuple(actions) for actions in demonstrations)
        self.initial_sigma = sigma
        self.sigma_decay = sigma_decay
        self.sigma_min = sigma_min
        self.narrow_warmup = narrow_warmup
        self.elite, self.suggest = elite, suggest
        self.episode = 0
        self.rewards: list[float] = []
        self.actions: list[NDArray[np.floating]] = []
        self.observations: list[NDArray[np.floating]] = []
        self._seed = [seed] if isinstance(seed, int) else list(seed)
        self._walks: list[_Walk] = []

    @property
    def past_warmup(self) -> bool:
        """Whether at least one episode after the warm-up is finished, so that training is due."""
        return self.episode > max(self.warmup_episodes, len(self.demonstrations))

    @property
    def sigma(self) -> float:
        """Standard deviation in the running episode, in action units; constant in the warm-up."""
        return self._sigma(self.episode)

    def _sigma(self, episode: int) -> float:
        age = max(0, episode - max(self.warmup_episodes, len(self.demonstrations)))
        return max(self.sigma_min, self.initial_sigma * self.sigma_decay**age)

    def start(self, walks: int = 1) -> None:
        """Begin the next ``walks`` episodes, which are walked side by side."""
        self._walks = []
        for episode in range(self.episode, self.episode + walks):
            walk = _Walk(np.random.default_rng([*self._seed, episode]))
            if episode < len(self.demonstrations):
                walk.script = np.array(self.demonstrations[episode])[:, None]
            elif self.suggest and walk.lot < self.elite:
                walk.script = np.array(self.suggest(walk.rng))[:, None]
            self._walks.append(walk)

    def act(self, proposals: Array) -> Array:
        """Return the actions to try in the running episodes.

        Args:
            proposals: the actor's actions in [0, 1], [N, A] for the N running episodes.

        Returns:
            The explored actions in [0, 1], [N, A].
        """
        actions = [
            self._act(self.episode + i, walk, proposal)
            for i, (walk, proposal) in enumerate(zip(self._walks, proposals, strict=True))
        ]
        return np.stack(actions).astype(np.float32)

    def _act(self, episode: int, walk: "_Walk", proposal: Array) -> NDArray[np.floating]:
        if walk.script is not None:
            walk.step += 1
            return np.broadcast_to(walk.script[walk.step - 1], proposal.shape)
        if episode < self.warmup_episodes:
            spread = walk.spread if self.narrow_warmup else 1.0
            return 0.5 + spread * (walk.rng.random(proposal.shape) - 0.5)
        return sample_truncated_normal(walk.rng, proposal, self._sigma(episode))

    def best(self, count: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Observations [B, S] and actions [B, A] of the best episodes."""
        order = np.argsort(-np.array(self.rewards), kind="stable")[:count]
        return (
            np.concatenate([self.observations[i] for i in order]),
            np.concatenate([self.actions[i] for i in order]),
        )

    def finish(
        self,
        rewards: Sequence[float] = (),
        actions: Sequence[NDArray[np.floating]] = (),
        observations: Sequence[NDArray[np.floating]] = (),
    ) -> None:
        """Move on past the running episodes: the only place where the schedule advances.

        Args:
            rewards: of the episodes.
            actions: carried out in them, [L, A] each.
            observations: before each action, [L, S] each.
        """
        self.rewards += rewards
        self.actions += actions
        self.observations += observations
        self.episode += len(self._walks)
        self._walks = []


class _Walk:
    """What one running episode needs to remember."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.step = rng, 0
        self.spread, self.lot = float(rng.random()), float(rng.random())
        self.script: NDArray[np.floating] | None = None
