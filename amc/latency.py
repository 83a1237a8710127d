"""``python -m amc.latency``: how long a network takes on this machine, at any channel counts."""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.latency")
    from amc.config.command_line import at_once
    from amc.config.latency import LatencyConfig

    at_once("amc.latency", LatencyConfig)

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from amc.config.command_line import command
from amc.config.composed import flags
from amc.config.latency import LatencyConfig
from amc.graph.capture.bake import bake
from amc.graph.restrict import restrict
from amc.graph.tracing.trace import trace
from amc.measuring.exported import Exported
from amc.measuring.machine import setup_here
from amc.measuring.measure import Effort, Measured, Networks, eager, measured
from amc.measuring.stopwatch import stopwatch
from amc.measuring.tables import layer_times, summary, trials
from amc.models.catalog import build
from amc.models.example import images
from amc.objectives.budget import Budget
from amc.objectives.latency import clock_for
from amc.runs.terminal import Terminal
from amc.runtime import feed
from amc.runtime.distributed import choose_device
from amc.runtime.files import write_atomically
from amc.tasks.task import load_task


def run(config: LatencyConfig) -> Measured:
    """Measures the table, tries it, and writes it.

    Raises:
        AmcError: something given cannot be used, or the runtime cannot run the network.
    """
    terminal = Terminal(quiet=False)
    device = choose_device(config.device)
    write_atomically(config.file.with_name(f"{config.file.name}.tried"), "")  # not after minutes
    config.file.with_name(f"{config.file.name}.tried").unlink()
    torch.manual_seed(0)
    with terminal.bar("read data"):
        shape, classes, example = images(config)
    channels = next(iter(tree_leaves(shape)), 1)
    given = build(config.model, num_classes=classes, in_channels=channels, width=config.width)
    sample = feed.moved(feed.each(example, _filled), device)
    inputs = feed.arguments(sample)
    with terminal.bar("trace"):
        model = bake(given.to(device), *inputs).eval()
        task = load_task(config.task).for_network(given)
        wanted = config.restrictions
        graph = trace(model, *inputs, task.taken, heads=wanted.heads)
        graph = restrict(graph, model, wanted)
    Budget(graph, 1.0)  # says what leaves nothing to be measured
    effort = Effort(config.networks)
    with _threads(config.threads):
        networks: Networks = eager(model, graph, sample)
        if config.runtime == "onnxruntime":
            with terminal.bar("export"):
                networks = Exported(model, graph, sample, config.threads)
        with terminal.bar("time", effort.turns) as bar:
            found = measured(
                networks,
                graph,
                setup_here(
                    config.model, feed.in_words(shape), device, config.runtime, config.threads,
                    config.batch,
                ),
                stopwatch(clock_for(config.threads, device)),
                effort,
                None if config.channel_multiple == "auto" else config.channel_multiple,
                config.min_ratio,
                bar.step,
            )  # fmt: skip
    found.table.save(config.file)
    terminal.table(layer_times(found.table))
    terminal.table(trials(found))
    terminal.say(*summary(found, config.file), "", f"Next: {following(config)}")
    return found


def following(config: LatencyConfig) -> str:
    """The pruning run that the table is for."""
    same = flags(config, "model", "width", "data", "task", "restrictions", "channel_multiple")
    words = ["python", "-m", "amc.train", *same, "--objective", "latency"]
    return shlex.join([*words, "--latency-table", str(config.file), "--preserve-ratio", "0.6"])


def _filled(x: Tensor) -> Tensor:
    """Numbers such as images have: a runtime may be fast with zeros."""
    if not x.is_floating_point():
        return x
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    """The command."""
    command("amc.latency", LatencyConfig, run, result=lambda found: found.table.text)


if __name__ == "__main__":
    main()
