"""The network that a run leaves behind: its plan, its weights, and how it comes back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from amc.graph.capture.bake import computes_weight
from amc.graph.plan import Plan
from amc.graph.plan_files import load_plan, save_plan
from amc.graph.shrink import load_tensors, shrink
from amc.runtime import weights
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json, write_atomically


def save_network(folder: Path, plan: Plan, model: nn.Module, about: Mapping[str, Any]) -> None:
    """The plan and the weights: all that `load_pruned` needs.

    Args:
        folder: of the run.
        plan: that the network was cut by.
        model: the cut network.
        about: kept with the plan; under "baked" the layers that were made plain before the cut.
    """
    save_plan(folder / "plan.json", plan, about)
    write_atomically(folder / "pruned.safetensors", weights.to_bytes(model))


def load_pruned(model: nn.Module, run: Path | str) -> nn.Module:
    """The network that a run left behind.

    Examples:
        >>> import amc, tempfile, torch
        >>> from torch import nn
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> pooled = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
        >>> net = nn.Sequential(nn.Conv2d(1, 16, 3), *pooled)
        >>> images = torch.randn(64, 1, 8, 8)
        >>> loader = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), 32)
        >>> folder, few = tempfile.mkdtemp(), {"mode": "uniform", "finetune_epochs": 0}
        >>> result = amc.compress(net, loader, loader, run_dir=folder, **few)
        >>> bool(amc.load_pruned(net, folder).eval()(images).equal(result.model(images)))
        True

    Args:
        model: an original network of the same class and size, with any weights; not changed.
        run: the run folder, with ``plan.json`` and ``pruned.safetensors``.

    Returns:
        A new, smaller module of the same class; its outputs equal those of the run's network.

    Raises:
        AmcError: missing or changed files, or another network.
    """
    folder = Path(run)
    plan = load_plan(folder / "plan.json")
    _check_baked(model, folder / "plan.json")
    smaller = shrink(model, plan)
    path = folder / "pruned.safetensors"
    state, own = weights.read(path), smaller.state_dict()
    for name in own:
        if name in state and own[name].shape != state[name].shape:
            raise AmcError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, the plan gives "
                f"{tuple(own[name].shape)}"
            )
    return load_tensors(smaller, state)


def baked_by(run: Path) -> list[str]:
    """The layers that computed their weights, and that the run has made plain, see `amc.bake`.

    Raises:
        AmcError: the run's plan is missing or changed.
    """
    plan = run / "plan.json"
    about = read_json(plan)
    baked = about.get("about", {}).get("baked", []) if isinstance(about, dict) else None
    if not (isinstance(baked, list) and all(isinstance(name, str) for name in baked)):
        raise AmcError(f"{plan}: baked must be a list of layers")
    return baked


def _check_baked(model: nn.Module, plan: Path) -> None:
    """Refuses a network whose layers still compute the weights that the run has made plain."""
    modules = dict(model.named_modules())
    for name in baked_by(plan.parent):
        if name in modules and computes_weight(modules[name]):
            raise AmcError(
                f"{plan}: {name} computes its weight in forward, the run made it plain; load into "
                "amc.bake(model, example_inputs)"
            )
