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
    from amc.allocators.random_plan import random_plan
    from amc.graph.capture.bake import bake
    from amc.graph.channel_graph import ChannelGraph
    from amc.graph.groups import ChannelGroup
    from amc.graph.plan import Plan, Strategy
    from amc.graph.plan_files import load_plan, save_plan
    from amc.graph.restrict import choose
    from amc.graph.restrictions import Choice
    from amc.graph.shrink import mask, shrink
    from amc.graph.tracing.trace import trace
    from amc.objectives.budget import Budget
    from amc.runs.network import load_pruned
    from amc.runtime.errors import AmcError, InfeasibleBudgetError, UnsupportedModelError
    from amc.tasks.task import Task

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
    "amc.allocators.random_plan": ("random_plan",),
    "amc.objectives.budget": ("Budget",),
    "amc.graph.restrictions": ("Choice",),
    "amc.runtime.errors": ("AmcError", "InfeasibleBudgetError", "UnsupportedModelError"),
    "amc.graph.capture.bake": ("bake",),
    "amc.graph.channel_graph": ("ChannelGraph",),
    "amc.graph.groups": ("ChannelGroup",),
    "amc.graph.restrict": ("choose",),
    "amc.graph.shrink": ("mask", "shrink"),
    "amc.graph.tracing.trace": ("trace",),
    "amc.graph.plan": ("Plan", "Strategy"),
    "amc.graph.plan_files": ("load_plan", "save_plan"),
    "amc.runs.network": ("load_pruned",),
    "amc.tasks.task": ("Task",),
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
