"""Automatic channel pruning of PyTorch networks.

    import amc

    result = amc.compress(model, train, val, test, preserve_ratio=0.5)
    result.model                                 # the smaller network, trained again

or step by step:

    graph = amc.trace(model, (images,))          # what can be removed, and what it costs
    plan = graph.plan({"conv1": range(8)})       # which channels stay
    smaller = amc.shrink(model, plan)            # a new, smaller module
    smaller = amc.load_pruned(model, "runs/x")   # the network that a run left behind
    amc.export(smaller, "net.onnx", (images,))   # a file for elsewhere, proven equal

The same job on the command line is ``python -m amc.train``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amc.calibration.calibrate import calibrate
    from amc.export import export
    from amc.graph.capture.bake import bake
    from amc.graph.channel_graph import ChannelGraph
    from amc.graph.plan import Plan, Strategy
    from amc.graph.restrict import restrict
    from amc.graph.restrictions import Restrictions
    from amc.graph.shrink import mask, shrink
    from amc.graph.tracing.trace import trace
    from amc.objectives.budget import Budget
    from amc.runs.network import load_pruned
    from amc.runtime.errors import AmcError
    from amc.tasks.task import Task
    from amc.train import compress

__all__ = [
    "AmcError",
    "Budget",
    "ChannelGraph",
    "Plan",
    "Restrictions",
    "Strategy",
    "Task",
    "bake",
    "calibrate",
    "compress",
    "export",
    "load_pruned",
    "mask",
    "restrict",
    "shrink",
    "trace",
]

_HOMES = {
    "amc.train": ("compress",),
    "amc.export": ("export",),
    "amc.runs.network": ("load_pruned",),
    "amc.graph.tracing.trace": ("trace",),
    "amc.graph.restrictions": ("Restrictions",),
    "amc.graph.restrict": ("restrict",),
    "amc.graph.capture.bake": ("bake",),
    "amc.graph.channel_graph": ("ChannelGraph",),
    "amc.graph.plan": ("Plan", "Strategy"),
    "amc.graph.shrink": ("mask", "shrink"),
    "amc.calibration.calibrate": ("calibrate",),
    "amc.objectives.budget": ("Budget",),
    "amc.runtime.errors": ("AmcError", "InfeasibleBudgetError", "UnsupportedModelError"),
    "amc.tasks.task": ("Task",),
    # No longer named above, and here for one release more:
    "amc.proposals.random_plan": ("random_plan",),
    "amc.graph.groups": ("ChannelGroup",),
    "amc.graph.plan_files": ("load_plan", "save_plan"),
}
_RENAMED = {"Choice": "Restrictions", "choose": "restrict"}
"""Names of the release before."""

_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: a command refuses a mistyped flag before torch is loaded."""
    home = _HOME.get(_RENAMED.get(name, name))
    if home is not None:
        found = getattr(import_module(home), _RENAMED.get(name, name))
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
