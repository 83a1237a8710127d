"""``python -m amc.inspect``: what can be pruned in a network, before anything runs."""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.inspect")
    from amc.config.command_line import at_once
    from amc.config.inspect import InspectConfig

    at_once("amc.inspect", InspectConfig)

import math
import re
import time
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.config.command_line import command
from amc.config.inspect import InspectConfig
from amc.data import load_data
from amc.graph.capture.bake import bake, baked_layers
from amc.graph.restrict import restrict
from amc.graph.tracing.trace import trace
from amc.models.catalog import build, is_bundled
from amc.reporting.figures import picture_format
from amc.reporting.group_chart import draw
from amc.reporting.inspection import Inspection, inspection_of
from amc.reporting.inspection_tables import group_table, headline, layer_table, summary
from amc.reporting.suggest import suggested
from amc.runs.terminal import Terminal
from amc.runtime import feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.runtime.files import write_json
from amc.tasks.evaluate import evaluating, predictions
from amc.tasks.task import load_task

LARGEST = 10**9
"""Numbers in a batch that a network is traced with; a machine of little memory says so earlier."""


def run(config: InspectConfig) -> Inspection:
    """Traces the network and shows what was found.

    Raises:
        AmcError: something given cannot be used.
    """
    terminal = Terminal(quiet=False)
    if config.plot is not None:
        picture_format(config.plot)  # before anything else is done
    torch.manual_seed(0)
    with terminal.bar("read data"):
        shape, classes, example = images(config)
    channels = next(iter(tree_leaves(shape)), 1)
    given = build(config.model, num_classes=classes, in_channels=channels, width=config.width)
    inputs = feed.arguments(example)
    start = time.perf_counter()
    with terminal.bar("trace"):
        model = bake(given, *inputs)
        graph = restrict(trace(model, *inputs), model, config.restrictions)
    seconds = time.perf_counter() - start
    found = inspection_of(
        config, graph, shape, classes, tuple(baked_layers(given, model)), seconds
    )
    terminal.table(layer_table(found))
    terminal.table(group_table(found))
    with terminal.bar("suggest"):
        following = suggested(config, graph, found, outputs(model, example))
    found = replace(found, command=following.command)
    terminal.say(*summary(found, config), *following.lines())
    if config.json is not None:
        write_json(config.json, asdict(found))
    if config.plot is not None:
        with terminal.bar("draw"):
            draw(graph, config.plot, headline(found))
    return found


def images(config: InspectConfig) -> tuple[Any, int, Feed]:
    """Shape of an image (see `feed.forms`), number of classes, inputs to trace with."""
    if config.data is not None:
        if config.input_shape or config.num_classes:
            raise AmcError("--data says it all: leave --input-shape and --num-classes out")
        data = load_data(config.data, labelled=load_task(config.task).classifies)
        if data.example is None:
            return data.input_shape, data.num_classes, blank(config.batch, data.input_shape)
        known = feed.samples(data.example)
        repeated = torch.arange(config.batch) % known
        return data.input_shape, data.num_classes, feed.each(data.example, lambda x: x[repeated])
    bundled = is_bundled(config.model)
    text = config.input_shape or ("1x16x16" if bundled else "3x224x224")
    sides = re.split(r"[x,]", text.replace(" ", ""))
    if not all(re.fullmatch(r"[1-9]\d{0,5}", side) for side in sides):
        raise AmcError(f"--input-shape {text!r}: expected sizes such as 3x224x224 or 3,224,224")
    shape = tuple(map(int, sides))
    classes = config.num_classes or (10 if bundled else 1000)
    return shape, classes, blank(config.batch, shape)


def outputs(model: nn.Module, example: Feed) -> tuple[int, ...] | str:
    """Shape of what the network puts out, or why it is of no use to `amc.train`."""
    try:
        with torch.inference_mode(), evaluating(model):
            return tuple(predictions(model, example).shape)
    except AmcError as error:
        return str(error)


def blank(batch: int, shape: tuple[int, ...]) -> Tensor:
    """An empty batch."""
    sizes = "x".join(map(str, shape))
    if batch * math.prod(shape) > LARGEST:
        raise AmcError(
            f"--batch {batch} of {sizes} does not fit into memory: at most {LARGEST:,} numbers"
        )
    try:
        return torch.zeros(batch, *shape)
    except RuntimeError:  # torch has no type of its own for this
        raise AmcError(f"--batch {batch} of {sizes} does not fit into memory") from None


def main() -> None:
    """The command."""
    command("amc.inspect", InspectConfig, run)


if __name__ == "__main__":
    main()
