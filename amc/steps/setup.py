"""The network: built, traced, with its weights, and looked at before anything long runs."""

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from amc.calibration.calibrate import calibrated_layers
from amc.calibration.passes import passes
from amc.config.sections.job import DataConfig, NetworkConfig
from amc.config.sections.recovery import TrainingConfig
from amc.data import load_data
from amc.graph.capture.bake import bake, baked_layers
from amc.graph.channel_graph import ChannelGraph
from amc.graph.restrict import restrict
from amc.graph.restrictions import Restrictions
from amc.graph.shrink import duplicate
from amc.graph.tracing.trace import trace
from amc.models.catalog import build, facts, is_bundled
from amc.models.checkpoint import load_checkpoint
from amc.models.pretrained import by_steps, pretrained
from amc.objectives.budget import Budget
from amc.runs.run import Run
from amc.runtime import distributed, feed, weights
from amc.runtime.errors import AmcError
from amc.steps.job import Job
from amc.tasks.evaluate import Score, evaluate, evaluating, predictions
from amc.training.shared_gradient import backward

LARGE = ("idx:", "hf:", "torchvision:")
"""Data on which epochs are counted in steps."""


@dataclass(frozen=True)
class Network:
    """A network with its weights, ready to be cut.

    Attributes:
        name: as a person calls it.
        model: in eval mode, on the device, layers that computed their weights made plain.
        graph: what can be cut.
        source: where the weights come from.
        baked: the layers that were made plain.
    """

    name: str
    model: nn.Module
    graph: ChannelGraph
    source: str
    baked: list[str]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the weights."""
        return weights.digest(self.model)

    def overview(self, job: Job, *budgets: Budget | None) -> list[str]:
        """What a run works on, in a few lines."""
        graph, data, task = self.graph, job.data, job.task
        frozen = [f"{cause} ({n})" if n > 1 else cause for cause, n in graph.causes.items()]
        shape = feed.in_words(data.input_shape)
        what = "images" if data.example is None else "inputs"
        kind = f"{data.num_classes} classes" if task.classifies else f"scored by {task.name}"
        heads = sum(group.unit == "head" for group in graph.decisions)
        lines = [
            f"data     {data.name}: {kind}, {what} {shape}",
            f"network  {self.name}: {graph.macs():,} MACs, {graph.total_params:,} parameters",
            f"weights  {self.source}",
        ]
        if graph.decisions:  # or only weights are to become zero
            among = f", {heads} of them of attention heads" if heads else ""
            whole = "; ".join(frozen) or "none"
            lines.append(
                f"groups   {len(graph.decisions)} can be pruned{among}; left whole: {whole}"
            )
        if data.prepared:
            lines.insert(1, f"images   {data.prepared}")
        for budget in budgets:
            if budget and budget.note:
                kept = f"multiples of {budget.multiple}" if budget.multiple > 1 else "any number"
                lines.append(f"channels in {kept}: {budget.note}")
            if budget and budget.shortfall:
                lines.append(f"budget   {budget.preserve_ratio:g}: {budget.shortfall}")
        if self.baked:
            lines.append(
                f"baked    {len(self.baked)} layers that computed their weights in forward"
            )
        return list(dict.fromkeys(lines))  # what holds for all budgets once


def build_network(job: Job, config: NetworkConfig) -> nn.Module:
    """The network as its builder returns it; no weights yet.

    Raises:
        AmcError: there is no such network.
    """
    data = job.data
    classes, channels = data.num_classes, data.in_channels
    return build(
        config.model,
        num_classes=classes,
        in_channels=channels,
        width=config.width,
        weights=config.checkpoint is None,
    )


def trace_network(job: Job, given: nn.Module, restrictions: Restrictions) -> ChannelGraph:
    """What can be cut from a network.

    Raises:
        AmcError: it cannot be followed, or its statistics do not fit the memory.
    """
    example = job.example
    with job.terminal.bar("trace"):
        model = bake(given.to(job.device), example.args, example.kwargs)
        graph = trace(
            model, example.args, example.kwargs, example.outputs, heads=restrictions.heads
        )
        graph = restrict(graph, model, restrictions)
    passes(graph, calibrated_layers(graph), job.memory)  # says what does not fit
    return graph


def load_network(
    job: Job, given: nn.Module, graph: ChannelGraph, config: NetworkConfig, data: DataConfig
) -> Network:
    """The network with its weights; bundled networks without a checkpoint are trained if need be.

    Args:
        job: the run.
        given: the network as it was built.
        graph: what can be cut from it.
        config: its name and checkpoint.
        data: what a bundled network is trained on.

    Raises:
        AmcError: the checkpoint cannot be used, there is none for a bundled network's task, or
            the network's outputs are of no use for the task.
    """
    given, source = _with_weights(job, given, config, data)
    distributed.broadcast_model(given.to(job.device))
    example = job.example
    model = bake(given.to(job.device).eval(), example.args, example.kwargs)
    check_outputs(model, job)
    if not (config.checkpoint or is_bundled(config.model)):
        _warn_of_chance(model, job)
    name = config.model if job.named else config.model.rpartition(":")[2]
    return Network(name, model, graph, source, baked_layers(given, model))


def ready(
    job: Job, given: nn.Module, graph: ChannelGraph, run: Run[Any], budget: Budget | None
) -> tuple[Network, Score]:
    """The network with its weights and its score on the test split; the run has begun.

    Args:
        job: the run's data and task.
        given: the network as it was built.
        graph: what can be cut from it.
        run: of `amc.train` or `amc.apply`; from here on it can be resumed.
        budget: what a strategy may cost, if that decides.

    Raises:
        AmcError: the network cannot be used or trained.
    """
    config = run.config
    network = load_network(job, given, graph, config.network, config.data)
    if config.training.finetune_epochs or config.search.finalist_epochs:
        check_training(job, network.model, config.training)
    run.begin(
        target=config.target,
        seed=config.seed,
        weights=network.fingerprint,
        model=network.name,
        width=config.network.width,
        baked=network.baked,
        version=version("amc-pruning"),
    )
    job.terminal.say(*network.overview(job, budget))
    return network, job.tested(network.model)


def _with_weights(
    job: Job, given: nn.Module, config: NetworkConfig, data: DataConfig
) -> tuple[nn.Module, str]:
    if config.checkpoint is not None:
        return load_checkpoint(given, config.checkpoint), str(config.checkpoint)
    if not is_bundled(config.model):
        known = facts(config.model) if job.named else None
        if known is not None:
            return given, known.weights or "none: random numbers"
        return given, "as returned by its function" if job.named else "as given"
    if not job.task.classifies:
        raise AmcError(
            f"--model {config.model} is trained here to classify; for --task {data.task} its "
            "weights must be given: --checkpoint, or --model module:function"
        )
    with job.terminal.bar(f"train {config.model}") as bar:
        opened = load_data(data.data, seed=0)
        return pretrained(
            config.model,
            config.width,
            opened,
            lambda step: bar.step(f"loss {step.loss:.4f}", step.total),
            by_steps(opened) if data.data.startswith(LARGE) else None,
            lambda line: job.terminal.say(f"weights  {line}"),
            job.device,
        )


def check_outputs(model: nn.Module, job: Job) -> None:
    """Makes sure that the task can be done with what the network puts out.

    Raises:
        AmcError: its output has another form, or the task can do nothing with it.
    """
    if job.task.classifies:
        _check_classes(model, job)
        return
    (images, targets), task = job.validation[0], job.task
    with evaluating(model):
        found = predictions(model, images, task)
    count = feed.samples(images)
    for one in feed.leaves(found):
        if not one.ndim or len(one) != count:
            raise AmcError(
                f"the network must return a tensor [batch, ...], got shape {tuple(one.shape)} for "
                f"{count} images"
            )
    found = feed.each(found, Tensor.detach)
    loss = task.batch_loss(feed.each(found, _leaf), targets)
    if not loss.requires_grad:
        raise AmcError(f"{task.source}: loss has no gradient with respect to the outputs")
    distance = task.divergence(found, found)
    for part, value in (("loss", loss.detach()), ("distance", distance)):
        if not bool(value.isfinite()):
            raise AmcError(f"{task.source}: {part} is {float(value)} for the original network")


def _leaf(output: Tensor) -> Tensor:
    """An output that gradients are asked of, whatever is frozen in the network."""
    return output.clone().requires_grad_(output.is_floating_point())


def check_training(job: Job, model: nn.Module, config: TrainingConfig) -> None:
    """Makes sure that the network can be trained: one step of a copy, before anything long runs.

    Raises:
        AmcError: it cannot; the message says why, and how to do without.
    """
    inputs, targets = job.images[0]
    if config.finetune or len(targets) < 2:
        return
    copy, device = duplicate(model).train(), job.device
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            backward(job.task.batch_loss(predictions(copy, inputs, job.task), targets.to(device)))
    except AmcError as error:
        raise AmcError(
            f"in training mode {error}; --finetune-epochs 0 prunes without training"
        ) from None


def _check_classes(model: nn.Module, job: Job) -> None:
    data = job.data
    with torch.inference_mode():
        scores = predictions(model, job.samples(2))
    if scores.ndim != 2:
        raise AmcError(
            f"the network must return logits [batch, classes], got shape {tuple(scores.shape)}; "
            "what does not classify needs a --task"
        )
    outputs, classes = scores.shape[1], data.num_classes
    if outputs < classes:
        raise AmcError(f"the network has {outputs} outputs, but {data.name} has {classes} classes")
    if outputs > classes > 0:
        job.terminal.say(
            f"warning  the network has {outputs} outputs, but {data.name} has only {classes} "
            "classes: is it the right network for these data?"
        )


def _warn_of_chance(model: nn.Module, job: Job) -> None:
    """Says so if a network knows no more than which class is the most frequent."""
    if not job.task.classifies:
        return
    labels = torch.cat([labels for _, labels in job.validation])
    often = float(labels.bincount().max()) / len(labels)
    chance = often + 2 * math.sqrt(often * (1 - often) / len(labels))  # two standard errors
    accuracy = evaluate(model, job.validation).accuracy
    if accuracy <= chance < 1:
        how = ", give its weights with --checkpoint, or let its function load them"
        job.terminal.say(
            f"warning  the network is right on {accuracy:.1%} of the validation images, as by "
            f"chance: if it is untrained{how if job.named else ', train it first'}"
        )
