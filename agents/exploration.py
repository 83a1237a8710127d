"""Which action an episode really tries, given the one the actor proposes.

AMC (He et al. 2018, arXiv:1802.03494, section 3.2) first walks some episodes at random, then draws
every action from a normal distribution truncated to [0, 1] around the actor's output, with a
standard deviation that shrinks from episode to episode. Everything here is counted in episodes,
never in steps, and works in action space, so that no probability piles up on the bounds as it does
when noise is added and clipped. Nothing here knows an agent: any algorithm that proposes an action
can use it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float32]


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
    """Seed strategies, then uniform random episodes, then truncated normal noise.

    Episode e (from 0) plays

    * `first_actions[e]` at every step, while e < len(first_actions);
    * independent U[0, 1] actions, while e < warmup_episodes;
    * a truncated normal around the actor's proposal, sigma(e) = max(sigma_min, sigma *
      decay^(e - warmup_episodes)), from then on.

    `episode` and `rng` are the whole state: whoever saves both can go on from an episode's
    end as if nothing had happened.

    Attributes:
        episode: number of finished episodes, which is also the index of the running one.
        rng: the private generator; no other code draws from it.
    """

    def __init__(
        self,
        *,
        warmup_episodes: int,
        first_actions: Sequence[float],
        sigma: float,
        sigma_decay: float,
        sigma_min: float,
        seed: int | Sequence[int],
    ) -> None:
        if warmup_episodes < 0:
            raise ValueError(f"warmup_episodes must be >= 0, got {warmup_episodes}")
        if not all(0.0 <= action <= 1.0 for action in first_actions):
            raise ValueError(f"first_actions must lie in [0, 1], got {tuple(first_actions)}")
        if not 0.0 <= sigma_min <= sigma < np.inf:
            raise ValueError(f"need 0 <= sigma_min <= sigma, got {sigma_min} and {sigma}")
        if not 0.0 < sigma_decay <= 1.0:
            raise ValueError(f"sigma_decay must be in (0, 1], got {sigma_decay}")
        self.warmup_episodes = warmup_episodes
        self.first_actions = tuple(first_actions)
        self.initial_sigma = sigma
        self.sigma_decay = sigma_decay
        self.sigma_min = sigma_min
        self.episode = 0
        self.rng = np.random.default_rng(seed)

    @property
    def past_warmup(self) -> bool:
        """Whether at least one episode after the warm-up is finished, so that training is due."""
        return self.episode > self.warmup_episodes

    @property
    def sigma(self) -> float:
        """Standard deviation in the running episode, in action units; constant in the warm-up."""
        age = max(0, self.episode - self.warmup_episodes)
        return max(self.sigma_min, self.initial_sigma * self.sigma_decay**age)

    def act(self, proposal: Array) -> Array:
        """Return the action to try in the running episode.

        Args:
            proposal: the actor's action in [0, 1], any shape.

        Returns:
            The explored action in [0, 1], the shape of `proposal`.
        """
        if self.episode < len(self.first_actions):
            return np.full_like(proposal, self.first_actions[self.episode])
        if self.episode < self.warmup_episodes:
            return self.rng.random(proposal.shape).astype(np.float32)
        return sample_truncated_normal(self.rng, proposal, self.sigma).astype(np.float32)

    def finish_episode(self) -> None:
        """Move on to the next episode: the only place where the schedule advances."""
        self.episode += 1
