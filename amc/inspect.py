"""``python -m amc.inspect``: what can be pruned in a network, before anything runs."""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.ending import interruptible

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
from rich import box
from rich.table import Table
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.config.command_line import command
from amc.config.inspect import InspectConfig
from amc.data import load_data
from amc.graph.capture.bake import bake, baked_layers
from amc.graph.restrict import choose
from amc.graph.tracing.trace import trace
from amc.models.catalog import build, is_bundled
from amc.reporting.figures import picture_format
from amc.reporting.group_chart import draw
from amc.reporting.inspection import Account, examine
from amc.reporting.report import short
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


def run(config: InspectConfig) -> Account:
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
        graph = choose(trace(model, *inputs), model, config.choice)
    seconds = time.perf_counter() - start
    account = examine(config, graph, shape, classes, tuple(baked_layers(given, model)), seconds)
    terminal.table(layer_table(account))
    terminal.table(group_table(account))
    with terminal.bar("suggest"):
        following = suggested(config, graph, account, outputs(model, example))
    account = replace(account, command=following.command)
    terminal.say(*summary(account, config), *following.lines())
    if config.json is not None:
        write_json(config.json, asdict(account))
    if config.plot is not None:
        with terminal.bar("draw"):
            draw(graph, config.plot, headline(account))
    return account


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


def headline(account: Account) -> str:
    """The network in one line."""
    return (
        f"{account.model}: {short(account.macs)} MACs, {short(account.params)} parameters, "
        f"{account.prunable} of {len(account.groups)} groups can be pruned"
    )


def layer_table(account: Account) -> Table:
    """One row per layer, in execution order."""
    table = _table("Layers", ("layer", "kind", "channels", "kernel", "input", "MACs", "%"))
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("group of outputs", overflow="fold")
    for layer in account.layers:
        kernel = "x".join(map(str, layer.kernel))
        size = "x".join(map(str, layer.input_size))
        table.add_row(
            layer.name,
            layer.kind,
            f"{layer.in_channels} → {layer.out_channels}",
            f"{kernel} /{layer.stride}" if layer.stride > 1 else kernel,
            size.replace("x", "x·x") if len(layer.kernel) == 3 else size,
            short(layer.macs),
            f"{100 * layer.macs_share:.1f}",
            short(layer.params),
            ", ".join(layer.out_groups),
        )
    return table


def group_table(account: Account) -> Table:
    """One row per group, in the order of the walk."""
    table = _table("Groups", ("group", "writers", "read by", "channels", "may keep", "frees"))
    with_uniform = account.uniform_ratio is not None
    if with_uniform:
        table.add_column("uniform", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for group in account.groups:
        size = f"{group.channels}"
        if group.width > 1:
            size += f" ({group.channels // group.width} x {group.width})"
        remarks = ["residual"] if group.residual else []
        remarks += [f"frozen: {group.reason}"] if group.reason else []
        row = [
            group.name,
            str(len(group.writers) or ""),
            _several(group.readers),
            size,
            "all" if group.reason else f"{group.fewest} to {group.most}",
            "" if group.reason else f"{group.removable_share:.1%}",
        ]
        if with_uniform:
            row.append("" if group.uniform is None else str(group.uniform))
        table.add_row(*row, ", ".join(remarks))
    return table


def _table(title: str, headers: tuple[str, ...]) -> Table:
    """Columns for names and words, folded where they are too long, and for numbers, never."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for header in headers:
        if header in ("layer", "group", "read by"):
            table.add_column(header, overflow="fold")
        elif header in ("kind", "kernel"):
            table.add_column(header, no_wrap=True)
        else:
            table.add_column(header, justify="right", no_wrap=True)
    return table


def _several(names: tuple[str, ...]) -> str:
    """The first name and how many there are beside it."""
    if len(names) < 2:
        return "".join(names)
    return f"{names[0]} + {len(names) - 1} more"


def summary(account: Account, config: InspectConfig) -> list[str]:
    """What can be pruned, how far, and the next command."""
    shape = feed.in_words(account.input_shape)
    frozen = [f"{cause} ({n})" if n > 1 else cause for cause, n in account.causes.items()]
    lines = [
        f"network   {account.model}: {account.macs:,} MACs, {account.params:,} parameters; "
        f"traced with {config.batch} x {shape} in {account.seconds:.1f} s"
        + (f"; {account.other_macs:,} MACs outside of the layers" if account.other_macs else ""),
        f"groups    {account.prunable} of {len(account.groups)} can be pruned; left whole: "
        + ("; ".join(frozen) or "none"),
    ]
    if account.smallest_ratio is None:
        layers = "" if account.layers else ": there is no convolution or linear layer"
        lines.append(f"budget    nothing can be pruned{layers}")
    else:
        lines += [
            f"MACs      {account.removable_share:.1%} can go at most, with one channel in every "
            "group",
            f"budget    --preserve-ratio {account.smallest_ratio:g} to 1 with --min-ratio "
            f"{config.min_ratio:g}, --channel-multiple {account.multiple}",
        ]
        if account.largest_ratio < 1:
            lines.append(f"          bounds leave {account.largest_ratio:.1%} of the MACs at most")
    if account.infeasible:
        lines.append(f"uniform   {account.infeasible}")
    elif account.uniform_ratio is not None:
        lines.append(
            f"uniform   {account.uniform_ratio:.2%} of the MACs for --preserve-ratio "
            f"{config.preserve_ratio:g}"
        )
    if account.baked:
        lines.append(
            f"baked     {_several(account.baked)}: weights computed in forward, now plain"
        )
    return lines


def main() -> None:
    """The command."""
    command("amc.inspect", InspectConfig, run)


if __name__ == "__main__":
    main()
