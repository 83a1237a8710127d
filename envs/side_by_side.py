"""Several walks at once, whose strategies are measured together."""

from collections.abc import Callable, Sequence

from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from amc.graph.plan import Strategy
from envs.channel_pruning import ChannelPruningEnv


class SideBySide(DummyVecEnv):
    """A Stable-Baselines3 vector of walks over one network.

    Walking is cheap and measuring is not, so the walks share a process, and all strategies are
    handed over before the first of them is asked for.

    Args:
        make: makes one environment.
        walks: how many.
        look_ahead: called with the strategies of all walks before their last step.
    """

    def __init__(
        self,
        make: Callable[[], ChannelPruningEnv],
        walks: int,
        look_ahead: Callable[[Sequence[Strategy]], None],
    ) -> None:
        self._walks = [make() for _ in range(walks)]
        self._look_ahead = look_ahead
        super().__init__([lambda walk=walk: walk for walk in self._walks])  # type: ignore[misc]

    def step_wait(self) -> VecEnvStepReturn:
        """Steps every walk; see `DummyVecEnv`."""
        ahead = [w.ahead(a) for w, a in zip(self._walks, self.actions, strict=True)]
        strategies = [strategy for strategy in ahead if strategy is not None]
        if strategies:
            self._look_ahead(strategies)
        return super().step_wait()
