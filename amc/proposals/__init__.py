"""Searches without an agent: generators of strategies that are sent the reward of each."""

from collections.abc import Mapping

from amc.allocators.problem import Allocator
from amc.proposals import annealing, cem, legr, score_curves
from amc.proposals.evolution import evolution as evolved
from amc.proposals.evolution import random_search

PROPOSALS: Mapping[str, Allocator] = {
    "screened": lambda problem: evolved(problem.budget, problem.seed, problem.errors or None),
    "evolution": lambda problem: evolved(problem.budget, problem.seed),
    "random": lambda problem: random_search(problem.budget, problem.seed),
    "annealing": annealing.annealing,
    "cem": cem.cem,
    "legr": legr.legr,
    "greedy": score_curves.greedy,
}

__all__ = ["PROPOSALS"]
