"""Solvers of the knapsack against all strategies there are."""

import itertools

import numpy as np
import pytest

from amc.allocators.by_density import by_density
from amc.allocators.knapsack import Sums, knapsack, least_errors
from amc.allocators.problem import AllocationProblem, solved_by
from amc.graph.arrays import FloatArray
from amc.objectives.budget import Budget
from six_decisions import budget as of_six
from six_decisions import errors_of
from small_problems import budget_of, chain, graph_of


def drawn(budget: Budget, seed: int, convex: bool) -> dict[str, FloatArray]:
    """Errors that fall with every channel, by gains that fall too where they are convex."""
    rng, found = np.random.default_rng(seed), {}
    for group, options in zip(budget.graph.decisions, budget.options, strict=True):
        gains = rng.exponential(rng.uniform(0.3, 3), group.size)
        gains = np.sort(gains)[::-1] if convex else gains
        found[group.name] = np.append(np.cumsum(gains[::-1])[::-1], 0)[options]
    return found


def least(budget: Budget, errors: dict[str, FloatArray]) -> float:
    """The smallest sum of errors within the budget, by trying all strategies."""
    every = np.array(list(itertools.product(*budget.options)))
    sums = np.array([sum(each) for each in itertools.product(*errors.values())])
    costs = budget.cost_of(every)
    return float(sums[(budget.floor <= costs) & (costs <= budget.target)].min())


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("settings", [{}, {"multiple": 2}, {"min_ratio": 0.4}, {"tolerance": 1.0}])
def test_the_best_of_all_strategies(
    ratio: float, convex: bool, settings: dict[str, float]
) -> None:
    budget = Budget(graph_of(chain), ratio, **{"multiple": 4, **settings})
    for seed in range(3):
        errors = drawn(budget, seed, convex)
        found = least_errors(budget, errors)
        sums = Sums(budget, errors)
        assert sums.inside(budget.graph.counts(found)[None]).all()
        if np.prod([len(o) for o in budget.options], dtype=float) < 30_000:
            assert sums.total(budget.graph.counts(found)) == pytest.approx(least(budget, errors))


def test_all_strategies_of_small_networks() -> None:
    for ratio, seed in itertools.product((0.4, 0.6), range(4)):
        budget = budget_of(ratio)
        errors = drawn(budget, seed, convex=False)
        found = budget.graph.counts(least_errors(budget, errors))
        assert Sums(budget, errors).total(found) == pytest.approx(least(budget, errors))


@pytest.mark.parametrize(("ratio", "multiple"), [(0.2, 1), (0.5, 1), (0.8, 1), (0.5, 8)])
def test_never_worse_than_by_density_nor_over_the_target(ratio: float, multiple: int) -> None:
    budget, better = of_six(ratio, multiple), 0
    for seed in range(2):
        for errors in (errors_of(budget, seed), drawn(budget, seed, convex=False)):
            sums = Sums(budget, errors)
            found, other = (
                budget.graph.counts(solve(budget, errors)) for solve in (least_errors, by_density)
            )
            assert sums.total(found) <= sums.total(other) + 1e-12
            better += sums.total(found) < sums.total(other) - 1e-9
            assert sums.inside(found[None]).all()
    assert better


def test_of_what_makes_no_difference_nothing_goes_wrong() -> None:
    budget = budget_of(0.5)
    pairs = zip(budget.graph.decisions, budget.options, strict=True)
    errors = {group.name: np.zeros(len(options)) for group, options in pairs}
    assert budget.allows(least_errors(budget, errors))


def test_a_solver_is_an_allocator() -> None:
    budget = of_six()
    problem = AllocationProblem(budget, errors_of(budget))
    assert solved_by(least_errors)(problem) == knapsack(problem)
