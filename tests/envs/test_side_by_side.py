"""Several walks at once, one evaluation after all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from amc.graph.plan import Strategy
from envs import ChannelPruningEnv, Outcome, SideBySide
from small_problems import budget_of, cheap, environment


@pytest.mark.parametrize("walks", [1, 2, 5])
def test_walks_side_by_side_are_walks_of_their_own(walks: int) -> None:
    rng = np.random.default_rng(3)
    together = SideBySide(environment, walks, lambda strategies: None)
    alone = [environment() for _ in range(walks)]
    for _ in range(3):
        seen = together.reset()
        assert np.array_equal(seen, [env.reset()[0] for env in alone])
        for t in range(3):
            actions = rng.random((walks, 1), dtype=np.float32)
            seen, rewards, dones, infos = together.step(actions)
            single = [env.step(a) for env, a in zip(alone, actions, strict=True)]
            assert rewards.tolist() == pytest.approx([s[1] for s in single])
            assert dones.tolist() == [s[2] for s in single] == [t == 2] * walks
            for info, (observation, *_, expected) in zip(infos, single, strict=True):
                for name, value in expected.items():
                    assert info[name] == value, name
                if t == 2:  # the vector starts the next walk at once
                    assert np.array_equal(info["terminal_observation"], observation)
            if t < 2:
                assert np.array_equal(seen, [s[0] for s in single])


def test_all_strategies_are_known_before_the_first_is_measured() -> None:
    events: list[tuple[str, Any]] = []
    budget = budget_of()

    def outcome(strategy: Strategy) -> Outcome:
        events.append(("measured", strategy))
        return cheap(budget)(strategy)

    def look_ahead(strategies: Sequence[Strategy]) -> None:
        events.append(("ahead", list(strategies)))

    walks = SideBySide(lambda: ChannelPruningEnv(budget, outcome), 3, look_ahead)
    rng = np.random.default_rng(0)
    for _ in range(2):
        walks.reset()
        for _ in range(3):
            *_, infos = walks.step(rng.random((3, 1), dtype=np.float32))
        found = [info["strategy"] for info in infos]
        assert events == [("ahead", found), *(("measured", s) for s in found)]
        events.clear()
