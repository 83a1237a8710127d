"""How much every group keeps, where nothing needs to be tried; one table of their names."""

from collections.abc import Mapping

from amc.allocators.knapsack import knapsack
from amc.allocators.problem import AllocationProblem, Allocator, Proposals, Solver
from amc.allocators.ranking import ranking
from amc.allocators.sensitivity import sensitivity
from amc.allocators.uniform import uniform

ALLOCATORS: Mapping[str, Allocator] = {
    "uniform": lambda problem: uniform(problem.budget, problem.errors or None),
    "ranking": ranking,
    "sensitivity": sensitivity,
    "knapsack": knapsack,
}

__all__ = ["ALLOCATORS", "AllocationProblem", "Allocator", "Proposals", "Solver"]
