"""Measured score curves: which cuts are measured, the monotone fit, the common level."""

from typing import Any

import numpy as np
import pytest

from amc.allocators.problem import AllocationProblem
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.proposals.score_curves import (
    NAME,
    ScoreCurves,
    at_common_level,
    greedy,
    measured,
    monotone,
    single_cuts,
)
from amc.runtime.errors import AmcError
from six_decisions import budget, errors_of, tried
from small_problems import budget_of


def asked(episodes: int = 40, **more: Any) -> AllocationProblem:
    return AllocationProblem(budget(), errors_of(budget()), episodes=episodes, **more)


def score(strategy: Strategy) -> float:
    """Falls by what each group loses, to different degrees."""
    sizes = budget().graph.sizes
    pairs = enumerate(sizes.items(), start=1)
    return 5.0 - sum(t * (1 - strategy[name] / size) ** 2 for t, (name, size) in pairs)


def test_groups_are_cut_alone_one_after_the_other() -> None:
    found = [s for s, _ in tried(measured(asked(33)), score, 33)]
    whole = budget().graph.sizes
    assert found[0] == uniform(budget()) and found[1] == whole
    for strategy in found[2:-1]:
        assert sum(strategy[name] != size for name, size in whole.items()) == 1
    assert len({tuple(s.values()) for s in found[2:-1]}) == 30  # 5 of every group
    assert budget().allows(found[-1])


def test_as_many_cuts_as_asked_for_spread_evenly() -> None:
    limit = budget()
    for number in (1, 4, 6, 15, 60):
        cuts = single_cuts(limit, number)
        assert len(cuts) == len(set(cuts)) == number
        counts = [sum(t == group for group, _ in cuts) for t in range(6)]
        assert max(counts) - min(counts) <= 1
    of_one = [count for t, count in single_cuts(limit, 18) if t == 2]  # of 40 channels: 4 to 40
    assert of_one == [31, 22, 13]
    every = single_cuts(limit, 10_000)
    assert len(every) == sum(len(options) - 1 for options in limit.options)
    assert single_cuts(limit, 0) == []


def test_monotone_is_the_nearest_that_never_falls() -> None:
    assert monotone(np.array([3.0, 1.0, 2.0, 5.0])).tolist() == [2, 2, 2, 5]
    assert monotone(np.array([1.0, 2.0, 3.0])).tolist() == [1, 2, 3]
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.normal(size=4)
        fit = monotone(values)
        grid = np.sort(rng.normal(size=(2000, 4)), axis=1)
        assert (np.diff(fit) >= 0).all()
        assert ((fit - values) ** 2).sum() <= ((grid - values) ** 2).sum(axis=1).min() + 1e-12


def enumerated(problem: AllocationProblem, table: dict[str, dict[int, float]]) -> list[int]:
    """Of all common levels the highest that fits, each tried by itself."""
    limit, best = problem.budget, [int(o[0]) for o in problem.budget.options]
    for level in sorted({s for row in table.values() for s in row.values()}):
        counts = [min(k for k, s in row.items() if s >= level) for row in table.values()]
        if limit.cost(np.array(counts)) <= limit.target:
            best = counts
    return best


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.9])
def test_bisection_finds_the_highest_level_that_fits(ratio: float) -> None:
    limit = budget_of(ratio)
    names = [group.name for group in limit.graph.decisions]
    for seed in range(10):
        rng, table = np.random.default_rng(seed), {}
        for name, options in zip(names, limit.options, strict=True):
            values = np.sort(rng.integers(0, 20, len(options)).astype(float))
            values[-1] = 20.0
            table[name] = dict(zip(options.tolist(), values.tolist(), strict=True))
        problem = AllocationProblem(limit)
        curves = ScoreCurves(20.0, {name: dict(row) for name, row in table.items()})
        expected = limit.complete(enumerated(problem, table))
        found = at_common_level(problem, curves)
        assert limit.graph.counts(found).tolist() == expected.tolist()


def test_a_level_that_is_exactly_the_strongest_cuts_score_cuts_it() -> None:
    """Not left whole, as AIMET's scan does."""
    limit = budget_of(0.55)
    names = [group.name for group in limit.graph.decisions]
    table = {
        name: {int(o[0]): 0.5, int(o[-1]): 1.0}
        for name, o in zip(names, limit.options, strict=True)
    }
    flat = {
        name: dict.fromkeys(map(int, o), 0.5) for name, o in zip(names, limit.options, strict=True)
    }
    for one in (table, flat):
        found = at_common_level(AllocationProblem(limit), ScoreCurves(1.0, one))
        assert limit.allows(found) and found[names[0]] < 8


def test_groups_that_hurt_more_keep_more() -> None:
    found = tried(measured(asked(63)), score, 63)[-1][0]
    kept = [found[name] / size for name, size in budget().graph.sizes.items()]
    assert kept[5] > kept[0] and np.corrcoef(kept, range(6))[0, 1] > 0.8


@pytest.mark.parametrize("episodes", [1, 2, 3, 4, 7])
def test_of_few_episodes_errors_stand_in(episodes: int) -> None:
    found = list[Strategy]()
    proposals = measured(asked(episodes))
    strategy = next(proposals)
    while len(found) < episodes:
        found.append(strategy)
        try:
            strategy = proposals.send(score(strategy))
        except StopIteration:
            break
    assert budget().allows(found[-1])
    assert len(found) == {3: 2}.get(episodes, episodes)


def test_the_table_is_saved_and_used_again_under_another_budget() -> None:
    kept: dict[str, Any] = {}
    found = [s for s, _ in tried(measured(asked(40, save=kept.__setitem__)), score, 40)]
    known = {NAME: {**kept[NAME], "path": "x/score_curves.json"}}
    assert greedy(asked(known=known)) == found[-1]
    other = AllocationProblem(budget(0.3), errors_of(budget(0.3)), known=known)
    again = greedy(other)
    assert isinstance(again, dict) and budget(0.3).allows(again)
    assert not isinstance(greedy(asked()), dict)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "damaged table of scores"),
        ({"whole": 1.0, "groups": {"0": {"a": 1}}}, "damaged table of scores"),
        ({"whole": float("nan"), "groups": {}}, "a score is not finite"),
        ({"whole": 1.0, "groups": {"00": {"3": 1}}}, "'00' is no group"),
        ({"whole": 1.0, "groups": {"0": {"99": 1}}}, "0 has 24 channels, not 99"),
    ],
)
def test_damaged_tables_are_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(AmcError) as refused:
        greedy(asked(known={NAME: {**content, "path": "x.json"}}))
    assert str(refused.value).startswith("x.json: ") and said in str(refused.value)
