"""Searches without an agent: generators of strategies that are sent the reward of each."""

from collections.abc import Mapping

from amc.allocators.problem import Allocator
from amc.proposals.annealing import annealing
from amc.proposals.evolution import evolution, random_search
from amc.proposals.legr import legr
from amc.proposals.score_curves import greedy

PROPOSALS: Mapping[str, Allocator] = {
    "screened": lambda problem: evolution(problem.budget, problem.seed, problem.errors or None),
    "evolution": lambda problem: evolution(problem.budget, problem.seed),
    "random": lambda problem: random_search(problem.budget, problem.seed),
    "annealing": annealing,
    "legr": legr,
    "greedy": greedy,
}

__all__ = ["PROPOSALS"]
