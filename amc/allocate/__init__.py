"""How much each group keeps: allocations that need no search."""

from amc.allocate.listed import listed
from amc.allocate.random import random_plan
from amc.allocate.uniform import common_ratio, uniform

__all__ = ["common_ratio", "listed", "random_plan", "uniform"]
