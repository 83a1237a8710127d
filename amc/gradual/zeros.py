"""What may become zero in a network, and when: from settings and the graph."""

from torch import nn

from amc.config.sections.sparsity import SparsityConfig
from amc.config.train import TrainConfig
from amc.graph.channel_graph import ChannelGraph
from amc.graph.restrict import named_layers
from amc.graph.shrink import tensors
from amc.runtime.errors import AmcError
from amc.sparsity.levels import Levels
from amc.sparsity.masking import Zeros
from amc.sparsity.masks import maskable
from amc.sparsity.patterns import SINGLE, Layout, Pattern
from amc.sparsity.select import highest_level


def zeros_in(
    graph: ChannelGraph, model: nn.Module, config: TrainConfig
) -> tuple[Zeros, dict[str, str]]:
    """What may become zero: the weights of all layers that ``--include``, ``--exclude`` leave.

    Returns:
        Weights, pattern and target; and the weights that stay whole, with the reason.

    Raises:
        AmcError: nothing may, or less than ``--sparsity`` says.
    """
    layers, others = named_layers(graph, model, config.restrictions)
    weight_of = {layer.name: layer.weight for layer in graph.layers}
    whole = {weight_of[name]: reason for name, reason in others.items()}
    known, layouts = tensors(model), dict[int, Layout]()
    names = list(dict.fromkeys(layer.weight for layer in layers if layer.weight not in whole))
    found, refused = maskable(model, names)
    for layer in layers:
        if layer.weight in known:
            layouts.setdefault(id(known[layer.weight]), Layout.of(layer))
    settings, whole = config.sparsity, {**whole, **refused}
    if not found:
        why = next(iter(whole.values()), "the network has no layer with weights")
        raise AmcError(f"--target {config.restrictions.target}: nothing can become zero: {why}")
    zeros = Zeros(
        {name: layouts[id(known[name])] for name in found},
        settings.sparsity,
        Pattern.parse(settings.block),
        "uniform" if settings.sparsity_allocation == "uniform" else "global",
    )
    check_reach(zeros, {name: tuple(known[name].shape) for name in found})
    return zeros, whole


def check_reach(zeros: Zeros, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuses a level that would take all of a layer.

    Raises:
        AmcError: the highest level that there is.
    """
    if zeros.pattern.stay:  # which says itself how many go
        return
    parts = [shapes]
    if zeros.scope == "uniform":
        parts = [{name: shape} for name, shape in shapes.items()]
    highest = {
        next(iter(part)): highest_level(part, zeros.pattern, zeros.layouts) for part in parts
    }
    name, most = min(highest.items(), key=lambda one: one[1])
    if zeros.target <= most:
        return
    where = f" in {name}" if zeros.scope == "uniform" else ""
    unit = "weight" if zeros.pattern == SINGLE else f"block of {zeros.pattern}"
    raise AmcError(
        f"--sparsity {zeros.target:g}: at most {int(most * 1e4) / 1e4:g} can become zero{where}, "
        f"every layer keeps a {unit}"
    )


def levels_for(config: SparsityConfig, schedule: str, epochs: int) -> Levels:
    """The schedule over a training of so many epochs."""
    reaches, freeze = config.epochs_for(schedule, epochs)
    return Levels(
        schedule,
        config.sparsity,
        config.sparsity_init,
        reaches,
        freeze,
        config.sparsity_per_step,
        config.sparsity_power,
        config.sparsity_convex,
        config.sparsity_steps,
        config.sparsity_levels,
        config.sparsity_patience,
    )
