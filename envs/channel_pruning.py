"""The environment: one step per channel group, the reward at the end of the walk."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from amc.graph.arrays import FloatArray
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError
from envs.features import NAMES, Features
from envs.outcome import Outcome
from envs.rewards import Reward, accuracy

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


class ChannelPruningEnv(gymnasium.Env[Array, Array]):
    """Chooses how many channels each group of a network keeps.

    ## Action space
    `Box(0, 1, (1,), float32)`: the preserve ratio of the next group, relative to what is left of
    the budget. 0.5 everywhere is the uniform strategy, or the budget's prior; 0 and 1 are the
    fewest and the most channels from which the walk can still end inside the budget. See
    `Budget.execute`.

    ## Observation space
    `Box(0, 1, (15,), float32)`:

    | number | name | meaning |
    |---|---|---|
    | 0 | index | position of the decision |
    | 1, 2 | out_channels, in_channels | of the first layer that reads the group |
    | 3, 4 | height, width | of that layer's input |
    | 5, 6 | stride, kernel | of that layer |
    | 7 | macs | of that layer in the original network |
    | 8 | reduced | MACs removed so far / MACs of the original network |
    | 9 | rest | MACs of this layer and those behind it / MACs of the original network |
    | 10 | previous_ratio | preserve ratio that was carried out last, 1 at the start |
    | 11 | target | MACs that may stay / MACs of the original network |
    | 12 | share | common ratio of all groups that are left that meets the target |
    | 13 | error | reconstruction error of the group at the uniform strategy, against the others |
    | 14 | gain | error that a MAC more would save there, against the others |

    ## Reward
    0 until the last step, which carries the network out, validates it and returns
    ``reward(outcome)``.

    ## Episode end
    Terminates after the last group; never truncates.

    ## Info
    Every step: ``executed_action`` [1], the action that stands for the count that was taken. The
    last step also: ``strategy`` {group: channels}, ``outcome``.

    ## Arguments
    * ``budget``: the network's graph and what it may cost.
    * ``evaluate``: strategy -> `Outcome`; called once per episode.
    * ``reward``: outcome -> number.
    * ``errors``: reconstruction error of every group at its allowed counts, see `Features`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium declares it so

    def __init__(
        self,
        budget: Budget,
        evaluate: Callable[[Strategy], Outcome],
        reward: Reward = accuracy,
        errors: Mapping[str, FloatArray] | None = None,
    ) -> None:
        self.budget = budget
        self._evaluate, self._reward = evaluate, reward
        self._features = Features(budget, errors)
        self._decided: list[int] = []
        self.observation_space = spaces.Box(0.0, 1.0, (len(NAMES),), np.float32)
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts a walk with every group undecided."""
        super().reset(seed=seed)
        self._decided = []
        return self._observation(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Decides the next group; see the class for what comes back."""
        count, executed = self.budget.execute(self._decided, float(np.ravel(action)[0]))
        self._decided.append(count)
        info: dict[str, Any] = {"executed_action": np.array([executed], dtype=np.float32)}
        done = len(self._decided) == len(self.budget.options)
        reward = 0.0
        if done:
            strategy = self.budget.strategy(self.budget.complete(self._decided))
            outcome = self._evaluate(strategy)
            reward = float(self._reward(outcome))
            if not math.isfinite(reward):
                raise AmcError(f"the reward is {reward} for {outcome}; it must be finite")
            info |= {"strategy": strategy, "outcome": outcome}
        return self._observation(), reward, done, False, info

    def ahead(self, action: Array) -> Strategy | None:
        """The strategy that this action would complete; None when decisions are left after it."""
        if len(self._decided) + 1 < len(self.budget.options):
            return None
        count, _ = self.budget.execute(self._decided, float(np.ravel(action)[0]))
        return self.budget.strategy(self.budget.complete([*self._decided, count]))

    def _observation(self) -> Array:
        return self._features.at(np.array(self._decided, dtype=np.int64))
