"""How much each group keeps: allocations that need no agent."""

from amc.allocate.greedy import greedy
from amc.allocate.listed import listed
from amc.allocate.proposals import Proposals, evolution, random_search, walked
from amc.allocate.random import random_plan
from amc.allocate.uniform import common_ratio, uniform
from amc.allocate.variations import Tried, Variations

__all__ = [
    "Proposals",
    "Tried",
    "Variations",
    "common_ratio",
    "evolution",
    "greedy",
    "listed",
    "random_plan",
    "random_search",
    "uniform",
    "walked",
]
