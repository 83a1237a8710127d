"""A global ranking against removing channels one by one; importance from errors and back."""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from amc.allocators import AllocationProblem
from amc.allocators.ranking import Ranking, ranking
from amc.allocators.scores import comparable, errors_from_scores, scores_from_errors
from amc.graph.arrays import FloatArray
from amc.objectives.budget import Budget
from six_decisions import budget as of_six
from small_problems import Small, budget_of, bundled, graph_of


def drawn(budget: Budget, seed: int = 0) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    return {g.name: rng.exponential(rng.uniform(0.5, 2), g.size) for g in budget.graph.decisions}


def one_by_one(budget: Budget, scores: dict[str, FloatArray]) -> dict[str, int]:
    """The least important channel of the network goes, unless its group is at its floor."""
    listed = sorted(
        (float(score), name) for name, values in scores.items() for score in values.tolist()
    )
    floors = {
        g.name: int(o[0]) for g, o in zip(budget.graph.decisions, budget.options, strict=True)
    }
    kept = dict(budget.graph.sizes)
    for _, name in listed:
        if budget.allows(kept):
            break
        if kept[name] > floors[name]:
            kept[name] -= 1
    return kept


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9, 1.0])
def test_ranking_is_removing_one_by_one(ratio: float) -> None:
    for budget in (of_six(ratio), budget_of(ratio)):
        for seed in range(5):
            scores = drawn(budget, seed)
            found = ranking(AllocationProblem(budget, importance=lambda s=scores: s))
            expected = budget.graph.counts(one_by_one(budget, scores))
            assert budget.graph.counts(found).tolist() == budget.complete(expected).tolist()


def test_groups_go_no_further_than_their_floor() -> None:
    budget = Budget(of_six().graph, 0.3, min_ratio=0.3)
    scores = drawn(budget)
    worthless = budget.graph.decisions[1]
    scores[worthless.name] *= 1e-6
    found = Ranking.of(budget, scores).strategy()
    assert found[worthless.name] == budget.options[1][0] == np.ceil(0.3 * worthless.size)
    assert budget.allows(found)


def test_blocks_of_channels_go_by_their_mean() -> None:
    budget = Budget(graph_of(Small), 0.9, multiple=4, tolerance=1.0)
    name = budget.graph.decisions[0].name
    assert budget.options[0].tolist() == [4, 8]
    scores = {g.name: np.full(g.size, 2.0) for g in budget.graph.decisions}
    for cheap, kept in ((1.9, 4), (2.1, 8)):  # the mean of four, one of which is worth nothing
        scores[name] = np.array([9.0, 9, 9, 9, *[4 / 3 * cheap] * 3, 0.0])
        assert Ranking.of(budget, scores).strategy()[name] == kept


def test_groups_that_look_alike_shrink_alike() -> None:
    budget = of_six(0.5)
    equal = {g.name: np.ones(g.size) for g in budget.graph.decisions}
    found = Ranking.of(budget, equal).strategy()
    parts = [found[name] / size for name, size in budget.graph.sizes.items()]
    assert max(parts) - min(parts) < 0.12


def test_scale_and_shift_of_groups_move_them_in_the_ranking() -> None:
    budget = of_six(0.5)
    ranks, count = Ranking.of(budget, drawn(budget)), len(budget.options)
    plain = ranks.strategy()
    assert ranks.strategy(np.ones(count), np.zeros(count)) == plain
    up = np.where(np.arange(count) == 2, 5.0, 0.0)
    name = budget.graph.decisions[2].name
    assert ranks.strategy(shift=up)[name] > plain[name] > ranks.strategy(shift=-up)[name]
    assert ranks.strategy(scale=1 + up)[name] > plain[name]


def test_scores_of_errors_are_their_marginals_and_give_them_back() -> None:
    budget = of_six(0.5)
    for seed in range(3):
        scores = {name: np.sort(s)[::-1] for name, s in drawn(budget, seed).items()}
        again = scores_from_errors(budget, errors_from_scores(budget, scores))
        for group, options in zip(budget.graph.decisions, budget.options, strict=True):
            least = int(options[0])  # the last ones never go
            np.testing.assert_allclose(again[group.name][least:], scores[group.name][least:])
    graph = graph_of(Small)
    coarse = Budget(graph, 0.9, multiple=2)
    name = graph.decisions[1].name  # 6 channels: 2, 4 and all
    given = {name: np.array([5.0, 3.0, 0.0])}  # 3 for the first two, 2 for the next: mean 2.5
    assert scores_from_errors(coarse, given)[name].tolist() == [1.25] * 6
    order = {name: np.array([3, 1, 0, 2, 5, 4])}
    given = {name: np.array([5.0, 1.0, 0.0])}
    found = scores_from_errors(coarse, given, order)[name]
    assert found.tolist() == [2.0, 2.0, 2.0, 2.0, 0.5, 0.5]


def test_comparable_scores_are_one_on_average_whatever_the_width() -> None:
    assert comparable(np.array([3.0, 5.0])).tolist() == [0.75, 1.25]
    assert comparable(np.array([3.0, -1.0])).tolist() == [1.5, -0.5]
    wide = comparable(np.tile([3.0, 5.0], 50))
    assert wide.min() == 0.75 and wide.max() == 1.25
    assert comparable(np.zeros(3)).tolist() == [0, 0, 0]


def test_of_real_networks() -> None:
    for name in ("resnet20", "mobilenet_v2"):
        graph = bundled(name)
        for ratio in (0.3, 0.7):
            budget = Budget(graph, ratio)
            found = graph.counts(Ranking.of(budget, drawn(budget)).strategy())
            assert budget.floor <= budget.cost(found) <= budget.target


@dataclass
class Wide:
    """A budget over groups whose every channel costs 1, of a size that no test can trace."""

    groups: int
    size: int
    target: int

    def __post_init__(self) -> None:
        names = [f"g{t}" for t in range(self.groups)]
        decisions = [SimpleNamespace(name=name, size=self.size) for name in names]
        self.graph = SimpleNamespace(decisions=decisions)
        self.options = (np.arange(self.size // 10, self.size + 1),) * self.groups

    def cost(self, counts: np.ndarray) -> int:
        return int(counts.sum())

    def complete(self, counts: list[int]) -> list[int]:
        return counts

    def strategy(self, counts: list[int]) -> dict[str, int]:
        return {g.name: k for g, k in zip(self.graph.decisions, counts, strict=True)}


def test_hundreds_of_wide_groups_take_seconds() -> None:
    wide: Any = Wide(500, 2000, 500_000)
    began = time.perf_counter()
    found = Ranking.of(wide, drawn(wide)).strategy()
    assert sum(found.values()) == wide.target
    assert time.perf_counter() - began < 5
