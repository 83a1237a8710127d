"""``python -m amc.inspect``: what can be pruned in a network, before anything runs."""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.inspect")
    from amc.config.command_line import at_once
    from amc.config.inspect import InspectConfig

    at_once("amc.inspect", InspectConfig)

import json
import time
from dataclasses import asdict, replace

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from amc.config.command_line import AS_JSON, command
from amc.config.inspect import InspectConfig
from amc.graph.capture.bake import bake, baked_layers
from amc.graph.restrict import restrict
from amc.graph.tracing.trace import trace
from amc.models.catalog import build, facts
from amc.models.example import images
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
from amc.tasks.task import Task, load_task


def run(config: InspectConfig) -> Inspection:
    """Traces the network and shows what was found.

    Raises:
        AmcError: something given cannot be used.
    """
    terminal = Terminal(quiet=False)
    if config.plot is not None:
        picture_format(config.plot)  # before anything else is done
    torch.manual_seed(0)
    if (known := facts(config.model)) is not None:
        terminal.say(f"{config.model}: {known}")
    with terminal.bar("read data"):
        shape, classes, example = images(config)
    channels = next(iter(tree_leaves(shape)), 1)
    given = build(config.model, num_classes=classes, in_channels=channels, width=config.width)
    inputs = feed.arguments(example)
    start = time.perf_counter()
    with terminal.bar("trace"):
        model = bake(given, *inputs)
        task = load_task(config.task).for_network(given)
        wanted = config.restrictions
        graph = trace(model, *inputs, task.taken, heads=wanted.heads)
        graph = restrict(graph, model, wanted)
    seconds = time.perf_counter() - start
    found = inspection_of(
        config, graph, shape, classes, tuple(baked_layers(given, model)), seconds
    )
    terminal.table(layer_table(found))
    terminal.table(group_table(found))
    with terminal.bar("suggest"):
        following = suggested(config, graph, found, outputs(model, example, task))
    found = replace(found, command=following.command)
    terminal.say(*summary(found, config), *following.lines())
    if config.json is not None and config.json not in AS_JSON:
        write_json(config.json, asdict(found))
    if config.plot is not None:
        with terminal.bar("draw"):
            draw(graph, config.plot, headline(found))
    return found


def outputs(model: nn.Module, example: Feed, task: Task) -> tuple[int, ...] | str:
    """Shape of what the network puts out first, or why it is of no use to `amc.train`."""
    try:
        with torch.inference_mode(), evaluating(model):
            found = predictions(model, example, task)
            return tuple(feed.leaves(found)[0].shape)
    except AmcError as error:
        return str(error)


def main() -> None:
    """The command."""
    command(
        "amc.inspect",
        InspectConfig,
        run,
        result=lambda found: json.dumps(asdict(found), indent=1),
    )


if __name__ == "__main__":
    main()
