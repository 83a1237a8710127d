"""What a run starts from: the device, the network with its weights, the budget."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from amc.allocators.listed import listed
from amc.allocators.multiples import budget_for, common_ratio_for
from amc.calibration.calibrate import reconstructed_layers
from amc.calibration.passes import passes
from amc.config.train import Shared, TrainConfig
from amc.data import Data, load_data, settled, unread
from amc.graph.capture.bake import bake, baked_layers
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.graph.plan_files import load_fitting, read_plan
from amc.graph.restrict import choose
from amc.graph.shrink import duplicate
from amc.graph.tracing.trace import trace
from amc.models.catalog import build, is_bundled
from amc.models.checkpoint import load_checkpoint
from amc.models.pretrained import pretrained
from amc.objectives.budget import Budget
from amc.runs.terminal import Terminal
from amc.runtime import distributed, feed
from amc.runtime.distributed import choose_device as choose_device
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.runtime.user_code import load_function
from amc.search.policies import load_learned
from amc.steps.pipeline import Pipeline
from amc.tasks.evaluate import evaluate, evaluating, predictions
from amc.tasks.task import Task
from amc.training.shared_gradient import backward
from envs.rewards import UNCONSTRAINED


def check_files(config: TrainConfig) -> None:
    """Reads the plan or policy that the settings name, before data and network take their time.

    Raises:
        AmcError: it is missing or damaged.
    """
    if config.plan is not None:
        read_plan(config.plan)
    if config.policy is not None:
        load_learned(config.policy)
    listed_in = config.strategy
    if listed_in is not None and not listed_in.is_file():
        raise AmcError(f"--strategy {listed_in}: no such file")
    if listed_in is not None and listed_in.suffix == ".json":
        read_json(listed_in)


def opened(config: Shared, task: Task, terminal: Terminal, **batching: int) -> Data:
    """The data of a run; those of the user's own are gone through once, before anything long.

    Raises:
        AmcError: something is wrong with a batch, or with what gives them.
    """
    with terminal.bar("read data"):
        data = load_data(config.data, labelled=task.classifies, **batching)
    streams = unread(data)
    if streams:
        with terminal.bar("check data", sum(one.left for one in streams)) as bar:
            for stream in streams:
                stream.read_through(bar.step)
    return settled(data)


def outline(pipe: Pipeline) -> tuple[nn.Module, ChannelGraph]:
    """The network as its builder returns it, and what can be cut from it; no weights yet.

    Raises:
        AmcError: there is no such network, or its statistics do not fit the memory.
    """
    config, data = pipe.config, pipe.data
    if config.finetune is not None:
        load_function(config.finetune)  # not there: better known now than after the search
    classes, channels = data.num_classes, data.in_channels
    with pipe.terminal.bar("trace"):
        given = build(config.model, num_classes=classes, in_channels=channels, width=config.width)
        model = bake(given.to(pipe.device), pipe.example, pipe.named)
        graph = choose(trace(model, pipe.example, pipe.named), model, config.choice)
    passes(graph, reconstructed_layers(graph), config.memory_bytes)  # says what does not fit
    return given, graph


@dataclass(frozen=True)
class Subject:
    """A network with its weights, ready to be cut.

    Attributes:
        model: in eval mode, on the device, layers that computed their weights made plain.
        graph: what can be cut.
        source: where the weights come from.
        baked: the layers that were made plain.
    """

    model: nn.Module
    graph: ChannelGraph
    source: str
    baked: list[str]

    def overview(self, pipe: Pipeline, *budgets: Budget | None) -> list[str]:
        """What a run works on, in a few lines."""
        graph, baked, data, task = self.graph, self.baked, pipe.data, pipe.task
        frozen = [f"{cause} ({n})" if n > 1 else cause for cause, n in graph.causes.items()]
        shape = feed.in_words(data.input_shape)
        what = "images" if data.example is None else "inputs"
        kind = f"{data.num_classes} classes" if task.classifies else f"scored by {task.name}"
        lines = [
            f"data     {data.name}: {kind}, {what} {shape}",
            f"network  {pipe.config.model}: {graph.macs():,} MACs, "
            f"{graph.total_params:,} parameters",
            f"weights  {self.source}",
            f"groups   {len(graph.decisions)} can be pruned; left whole: "
            f"{'; '.join(frozen) or 'none'}",
        ]
        for budget in budgets:
            if budget and budget.note:
                kept = f"multiples of {budget.multiple}" if budget.multiple > 1 else "any number"
                lines.append(f"channels in {kept}: {budget.note}")
            if budget and budget.shortfall:
                lines.append(f"budget   {budget.preserve_ratio:g}: {budget.shortfall}")
        if baked:
            lines.append(f"baked    {len(baked)} layers that computed their weights in forward")
        return list(dict.fromkeys(lines))  # what holds for all budgets once


def ready(pipe: Pipeline, given: nn.Module, graph: ChannelGraph) -> Subject:
    """The network of an outline with its weights; bundled networks are trained if need be."""
    given, source = _with_weights(pipe.config, given, pipe.terminal)
    distributed.as_first(given.to(pipe.device))
    model = bake(given.to(pipe.device).eval(), pipe.example, pipe.named)
    check_outputs(model, pipe)
    if not (pipe.config.checkpoint or is_bundled(pipe.config.model)):
        _warn_of_chance(model, pipe)
    return Subject(model, graph, source, baked_layers(given, model))


def _with_weights(
    config: TrainConfig, model: nn.Module, terminal: Terminal
) -> tuple[nn.Module, str]:
    if config.checkpoint is not None:
        return load_checkpoint(model, config.checkpoint), str(config.checkpoint)
    if not is_bundled(config.model):
        return model, "as returned by its function"
    if not config.classifies:
        raise AmcError(
            f"--model {config.model} is trained here to classify; for --task {config.task} its "
            "weights must be given: --checkpoint, or --model module:function"
        )
    with terminal.bar(f"train {config.model}") as bar:
        data = load_data(config.data, seed=0)
        return pretrained(
            config.model,
            config.width,
            data,
            lambda step: bar.step(f"loss {step.loss:.4f}", step.total),
        )


def check_outputs(model: nn.Module, pipe: Pipeline) -> None:
    """Makes sure that the task can be done with what the network puts out.

    Raises:
        AmcError: its output has another form, or the task can do nothing with it.
    """
    if pipe.task.classifies:
        _check_classes(model, pipe)
        return
    (images, targets), task = pipe.validation[0], pipe.task
    with evaluating(model):
        found = predictions(model, images)
    count = feed.samples(images)
    if not found.ndim or len(found) != count:
        raise AmcError(
            f"the network must return a tensor [batch, ...], got shape {tuple(found.shape)} for "
            f"{count} images"
        )
    found = found.detach().requires_grad_()  # whatever is frozen in the network
    loss = task.batch_loss(found, targets)
    if not loss.requires_grad:
        raise AmcError(f"{task.source}: loss has no gradient with respect to the outputs")
    apart = task.apart(found.detach(), found.detach())
    for part, value in (("loss", loss.detach()), ("distance", apart)):
        if not bool(value.isfinite()):
            raise AmcError(f"{task.source}: {part} is {float(value)} for the original network")


def check_training(model: nn.Module, pipe: Pipeline) -> None:
    """Makes sure that the network can be trained: one step of a copy, before anything long runs.

    Raises:
        AmcError: it cannot; the message says why, and how to do without.
    """
    config, (inputs, targets) = pipe.config, pipe.images[0]
    if not config.finetune_epochs or config.finetune or len(targets) < 2:
        return
    copy, device = duplicate(model).train(), pipe.device
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            backward(pipe.task.batch_loss(predictions(copy, inputs), targets.to(device)))
    except AmcError as error:
        raise AmcError(
            f"in training mode {error}; --finetune-epochs 0 prunes without training"
        ) from None


def _check_classes(model: nn.Module, pipe: Pipeline) -> None:
    data = pipe.data
    with torch.inference_mode():
        scores = predictions(model, pipe.samples(2))
    if scores.ndim != 2:
        raise AmcError(
            f"the network must return logits [batch, classes], got shape {tuple(scores.shape)}; "
            "what does not classify needs a --task"
        )
    outputs, classes = scores.shape[1], data.num_classes
    if outputs < classes:
        raise AmcError(f"the network has {outputs} outputs, but {data.name} has {classes} classes")
    if outputs > classes > 0:
        pipe.terminal.say(
            f"warning  the network has {outputs} outputs, but {data.name} has only {classes} "
            "classes: is it the right network for these data?"
        )


def _warn_of_chance(model: nn.Module, pipe: Pipeline) -> None:
    """Says so if a network knows no more than which class is the most frequent."""
    if not pipe.task.classifies:
        return
    labels = torch.cat([labels for _, labels in pipe.validation])
    often = float(labels.bincount().max()) / len(labels)
    chance = often + 2 * math.sqrt(often * (1 - often) / len(labels))  # two standard errors
    accuracy = evaluate(model, pipe.validation).accuracy
    if accuracy <= chance < 1:
        pipe.terminal.say(
            f"warning  the network is right on {accuracy:.1%} of the validation images, as by "
            "chance: if it is untrained, give its weights with --checkpoint, or let its function "
            "load them"
        )


def given_strategy(config: TrainConfig, graph: ChannelGraph) -> Strategy | None:
    """The strategy that the settings name; none where a budget decides.

    Raises:
        AmcError: its file cannot be used.
    """
    if config.mode == "list":
        assert config.strategy is not None
        return listed(graph, config.strategy)
    if config.plan is not None:
        return load_fitting(config.plan, graph).strategy
    if config.channel_ratio is not None:
        return common_ratio_for(graph, config.channel_ratio, config.channel_multiple)
    return None


def allocation(config: TrainConfig, graph: ChannelGraph) -> Budget:
    """The budget to search or walk in.

    Raises:
        InfeasibleBudgetError: the target cannot be reached.
    """
    return budget_for(
        graph,
        config.preserve_ratio,
        config.channel_multiple,
        tolerance=1.0 if config.reward in UNCONSTRAINED else 0.02,
        min_ratio=config.min_ratio,
    )
