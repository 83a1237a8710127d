"""Automatic channel pruning of PyTorch networks.

    import amc

    graph = amc.trace(model, (images,))          # what can be removed, and what it costs
    plan = amc.random_plan(graph, 0.5, seed=0)   # which channels stay
    smaller = amc.shrink(model, plan)            # a new, smaller module
    smaller = amc.load_pruned(model, "runs/x")   # the network that a run left behind

The whole job is ``python -m amc.train``.
"""

import os

# OpenMP's threads spin for milliseconds while they wait; beside one other busy process that made
# an epoch of ResNet-20 fifty times slower (60 s instead of 1.1 s, on two cores). A short spin
# costs nothing measurable on a quiet machine. It must be said before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from amc.allocate import random_plan
from amc.budget import Budget
from amc.errors import AmcError, InfeasibleBudgetError, UnsupportedModelError
from amc.graph import ChannelGraph, ChannelGroup, Choice, bake, choose, mask, shrink, trace
from amc.plan import Plan, Strategy, load_plan, save_plan
from amc.run_folder import load_pruned
from amc.task import Task

__all__ = [
    "AmcError",
    "Budget",
    "ChannelGraph",
    "ChannelGroup",
    "Choice",
    "InfeasibleBudgetError",
    "Plan",
    "Strategy",
    "Task",
    "UnsupportedModelError",
    "bake",
    "choose",
    "load_plan",
    "load_pruned",
    "mask",
    "random_plan",
    "save_plan",
    "shrink",
    "trace",
]
