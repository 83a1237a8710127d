"""How much every group keeps, where nothing needs to be tried; one table of their names."""

from collections.abc import Mapping

from amc.allocators import knapsack, ranking, sensitivity, uniform
from amc.allocators.problem import AllocationProblem, Allocator, Proposals, Solver

ALLOCATORS: Mapping[str, Allocator] = {
    "uniform": lambda problem: uniform.uniform(problem.budget, problem.errors or None),
    "ranking": ranking.ranking,
    "sensitivity": sensitivity.sensitivity,
    "knapsack": knapsack.knapsack,
}

__all__ = ["ALLOCATORS", "AllocationProblem", "Allocator", "Proposals", "Solver"]
