"""What may become zero in a network, and the network in which it has at once."""

from torch import nn

from amc.config.sections.sparsity import SparsityConfig
from amc.config.train import TrainConfig
from amc.gradual.one_shot import one_shot
from amc.graph.channel_graph import ChannelGraph
from amc.graph.restrict import named_layers
from amc.graph.shrink import duplicate, tensors
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.runtime.errors import AmcError
from amc.sparsity.constant import constant
from amc.sparsity.levels import Levels
from amc.sparsity.magnitude import MAGNITUDES, magnitude
from amc.sparsity.masking import Zeros
from amc.sparsity.masks import attach, maskable, put_masks
from amc.sparsity.patterns import SINGLE, Layout, Pattern
from amc.sparsity.select import highest_level
from amc.steps.job import Job


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


def at_once(
    job: Job, model: nn.Module, graph: ChannelGraph, zeros: Zeros, metric: str
) -> nn.Module:
    """A network with all its zeros and no training: masks on it, batch norm adapted, eval mode.

    Args:
        job: calibration images.
        model: without zeros; not changed.
        graph: of it.
        zeros: what becomes zero.
        metric: which. Of RB, whose logits know nothing before they are trained, magnitude decides.

    Raises:
        AmcError: there is no zero to keep (const).
    """
    names = list(zeros.layouts)
    if metric == "obs":
        return _solved(job, model, graph, zeros)
    masked = duplicate(model).eval()
    known = tensors(masked)
    held = {name: known[name].detach() for name in names}
    if metric == "const":
        masks = constant(held)
    else:
        score = MAGNITUDES.get(metric, magnitude)
        masks = zeros.masks({name: score(weight) for name, weight in held.items()}, zeros.target)
    attach(masked, names)
    put_masks(masked, masks)
    return masked if metric == "const" else adapted(job, masked)  # const changes nothing


def _solved(job: Job, model: nn.Module, graph: ChannelGraph, zeros: Zeros) -> nn.Module:
    """The weights that stay make up for those that go, layer after layer."""
    names, level = list(zeros.layouts), zeros.target if zeros.shares is None else zeros.shares
    found = one_shot(job, model, graph, names, level, zeros.pattern, zeros.scope)
    for reason in dict.fromkeys(found.by_magnitude.values()):
        some = [name for name, why in found.by_magnitude.items() if why == reason]
        job.terminal.say(f"zeros    by magnitude in {', '.join(some)}: {reason}")
    masked = found.network.eval()
    attach(masked, names)
    put_masks(masked, found.masks)
    return masked


def adapted(job: Job, model: nn.Module) -> nn.Module:
    """Batch norm that knows of the zeros; in place."""
    if job.reconstruction.bn_adapt:
        with job.terminal.bar("batch norm"):
            by_images = job.reconstruction.bn_samples is not None
            adapt_batchnorm(model, job.following if by_images else job.images)
    return model
