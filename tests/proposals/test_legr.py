"""LeGR: finds a planted ranking; the paper's evolution; coefficients saved and loaded."""

from typing import Any

import numpy as np
import pytest

from amc.allocators.problem import AllocationProblem
from amc.allocators.ranking import Ranking, ranking
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray
from amc.graph.plan import Strategy
from amc.proposals.legr import NAME, evolved, legr
from amc.runtime.errors import AmcError
from six_decisions import budget, tried


def scores(seed: int = 0) -> dict[str, FloatArray]:
    rng = np.random.default_rng([5, seed])
    return {g.name: rng.exponential(1, g.size) for g in budget().graph.decisions}


def asked(episodes: int = 150, seed: int = 0, **more: Any) -> AllocationProblem:
    return AllocationProblem(budget(), importance=scores, seed=seed, episodes=episodes, **more)


def planted(strategy: Strategy) -> float:
    """Highest at the ranking of scores that were scaled and shifted group by group, at 0."""
    scale, shift = np.array([4, 0.3, 1, 2, 0.25, 1.0]), np.array([0, 0.5, -0.5, 0, 1, 0.3])
    best = Ranking.of(budget(), scores()).strategy(scale, shift)
    sizes = budget().graph.sizes
    return -sum(((strategy[name] - best[name]) / size) ** 2 for name, size in sizes.items())


def test_a_planted_ranking_is_found() -> None:
    plain = planted(ranking(asked()))
    for seed in range(3):
        found = [reward for _, reward in tried(evolved(asked(300, seed)), planted, 300)]
        assert max(found) > 0.15 * plain  # the worst parts of the distance are gone
        assert max(found[150:]) > max(found[:64])  # and evolution did it, not chance


def test_first_come_the_uniform_strategy_random_ones_and_the_plain_ranking() -> None:
    found = [s for s, _ in tried(evolved(asked(400)), lambda s: 0.0, 70)]
    assert found[0] == uniform(budget())
    assert found[64] == ranking(asked())  # the last of a population of 64
    assert len({tuple(s.values()) for s in found[1:64]}) > 55  # drawn anew, not from one seed
    few = [s for s, _ in tried(evolved(asked(12)), lambda s: 0.0, 6)]
    assert few[3] == ranking(asked())  # a quarter of twelve episodes


def test_mutations_change_one_group_at_least_and_the_oldest_makes_room() -> None:
    """Told that only the plain ranking is any good, all others are its mutations, for a while."""
    plain = ranking(asked())

    def reward(strategy: Strategy) -> float:
        return float(strategy == plain)

    found = [s for s, _ in tried(evolved(asked(24, seed=2)), reward, 60)]
    apart = [sum(a != b for a, b in zip(s.values(), plain.values(), strict=True)) for s in found]
    assert apart[6] == 0 and any(a > 0 for a in apart[7:20])


def test_every_strategy_is_within_the_budget_and_follows_seed_and_rewards() -> None:
    limit = budget()
    runs = [tried(evolved(asked(40, seed)), planted, 40) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    for strategy, _ in runs[0]:
        assert limit.floor <= limit.cost(limit.graph.counts(strategy)) <= limit.target


def test_what_was_learned_is_saved_and_holds_under_another_budget() -> None:
    kept: dict[str, Any] = {}
    found = tried(evolved(asked(60, save=kept.__setitem__)), planted, 60)
    # the reward of the last one is told when the next is asked for, so that it may be missing
    best = max(found[1:-1], key=lambda one: one[1])[0]
    known = {NAME: {**kept[NAME], "path": "x/ranking.json"}}
    assert legr(asked(known=known)) == best
    other = AllocationProblem(budget(0.3), importance=scores, known=known)
    again = legr(other)
    assert isinstance(again, dict) and budget(0.3).allows(again) and not budget(0.2).allows(again)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"coefficients": 3}, "no coefficients"),
        ({"coefficients": {}}, "'0' is missing: it is of another network"),
        ({"coefficients": {"00": [1, 0]}}, "'00' is no group"),
        ({"bad": [0, 1]}, "damaged coefficients: a scale must be above 0"),
        ({"bad": [1, float("nan")]}, "damaged coefficients"),
        ({"bad": [1]}, "damaged coefficients"),
        ({"bad": ["x", 1]}, "damaged coefficients"),
    ],
)
def test_damaged_coefficients_are_refused(change: dict[str, Any], said: str) -> None:
    good = {group.name: [1.0, 0.0] for group in budget().graph.decisions}
    content = {"path": "x/ranking.json", "coefficients": good}
    if "bad" in change:
        content["coefficients"] = {**good, "0": change["bad"]}
    else:
        content |= change
    with pytest.raises(AmcError) as refused:
        legr(asked(known={NAME: content}))
    assert str(refused.value).startswith("x/ranking.json: ") and said in str(refused.value)
    assert "\n" not in str(refused.value)
