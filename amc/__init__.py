"""Automatic channel pruning of PyTorch networks.

    import amc

    graph = amc.trace(model, (images,))          # what can be removed, and what it costs
    plan = amc.random_plan(graph, 0.5, seed=0)   # which channels stay
    smaller = amc.shrink(model, plan)            # a new, smaller module
    smaller = amc.load_pruned(model, "runs/x")   # the network that a run left behind

The whole job is ``python -m amc.train``.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenMP's threads spin for milliseconds while they wait; beside one other busy process that made
# an epoch of ResNet-20 fifty times slower (60 s instead of 1.1 s, on two cores). A short spin
# costs nothing measurable on a quiet machine. It must be said before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from amc.allocate import random_plan
    from amc.budget import Budget
    from amc.choice import Choice
    from amc.errors import AmcError, InfeasibleBudgetError, UnsupportedModelError
    from amc.graph import ChannelGraph, ChannelGroup, bake, choose, mask, shrink, trace
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

_HOMES = {
    "amc.allocate": ("random_plan",),
    "amc.budget": ("Budget",),
    "amc.choice": ("Choice",),
    "amc.errors": ("AmcError", "InfeasibleBudgetError", "UnsupportedModelError"),
    "amc.graph": ("ChannelGraph", "ChannelGroup", "bake", "choose", "mask", "shrink", "trace"),
    "amc.plan": ("Plan", "Strategy", "load_plan", "save_plan"),
    "amc.run_folder": ("load_pruned",),
    "amc.task": ("Task",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: a command refuses a mistyped flag before torch is loaded."""
    home = _HOME.get(name)
    if home is not None:
        found = getattr(import_module(home), name)
        globals()[name] = found
        return found
    if not name.startswith("_"):  # rooms of the house are attributes as well: amc.graph
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
