"""The account of a run: what was measured, as JSON and as tables."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import nn
from torch.utils.benchmark import Timer

from amc import feed
from amc.evaluate import evaluating
from amc.feed import Feed
from amc.graph.groups import ChannelGraph
from amc.plan import Strategy
from amc.task import CLASSIFICATION, Task


@dataclass(frozen=True)
class Change:
    """A channel count or a cost, before and after."""

    original: int
    pruned: int

    @property
    def ratio(self) -> float:
        """The part that is left."""
        return self.pruned / self.original if self.original else 1.0


@dataclass(frozen=True)
class LayerChange:
    """What happened to one layer; MACs per sample."""

    name: str
    kind: str
    group: str
    in_channels: Change
    out_channels: Change
    macs: Change


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch of one sample, eager PyTorch: median and interquartile range."""

    median: float
    iqr: float


@dataclass(frozen=True)
class Report:
    """Everything that ``report.json`` holds.

    Attributes:
        accuracy: test split, 0 to 1: original, pruned (before any fine-tuning), recovered; of
            another task than classification its own score.
        episodes: tried by the search; 0 when there was none.
        seconds: calibrate, search, apply, finetune, total.
    """

    mode: str
    target: float | None
    macs: Change
    params: Change
    file_bytes: Change
    latency_ms: Mapping[str, Latency]
    accuracy: Mapping[str, float]
    episodes: int
    seconds: Mapping[str, float]
    layers: tuple[LayerChange, ...]
    frozen: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""

        def with_ratios(value: Any) -> Any:
            if isinstance(value, Change):
                return {**asdict(value), "ratio": round(value.ratio, 6)}
            if isinstance(value, Mapping):
                return {k: with_ratios(v) for k, v in value.items()}
            if isinstance(value, tuple):
                return [with_ratios(v) for v in value]
            if isinstance(value, LayerChange | Latency):
                return with_ratios(vars(value))
            return round(value, 6) if isinstance(value, float) else value

        found: dict[str, Any] = with_ratios(vars(self))
        return found


def layer_changes(graph: ChannelGraph, strategy: Strategy) -> tuple[LayerChange, ...]:
    """Channels and MACs of every layer under a strategy."""
    full, kept = graph.cost, graph.counts(strategy)
    before, after = full.layer_macs(graph.counts({})), full.layer_macs(kept)
    inputs, outputs = full.layer_channels(kept)
    changes = []
    for i, layer in enumerate(graph.layers):
        # a depthwise layer has one input slice a group: its inputs are as many as its outputs
        depthwise = layer.kind == "depthwise"
        multiplier = layer.out_channels // layer.in_channels if depthwise else 1
        scale_in = layer.in_channels // graph.shapes[layer.weight][layer.in_dim]
        scale_out = layer.out_channels // graph.shapes[layer.weight][layer.out_dim]
        out = int(outputs[i]) * scale_out
        into = out // multiplier if depthwise else int(inputs[i]) * scale_in
        changes.append(
            LayerChange(
                layer.name,
                layer.kind,
                layer.out_group,
                Change(layer.in_channels, into),
                Change(layer.out_channels, out),
                Change(int(before[i]), int(after[i])),
            )
        )
    return tuple(changes)


def latencies(
    models: Mapping[str, nn.Module], images: Feed, rounds: int = 9, seconds: float = 0.06
) -> dict[str, Latency]:
    """Measured times of a forward pass in eval mode, by name.

    The networks take turns, so that a machine that slows down for a while slows all of them.
    """
    medians: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode(), contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        for _ in range(rounds):
            for name, model in models.items():
                timer = Timer(
                    "call(model, images)",
                    globals={"call": feed.call, "model": model, "images": images},
                    num_threads=torch.get_num_threads(),
                )
                found = timer.blocked_autorange(min_run_time=seconds)
                medians[name].append(1e3 * found.median)
    measured = {}
    for name, times in medians.items():
        low, middle, high = quantiles(times, n=4)
        measured[name] = Latency(middle, high - low)
    return measured


def layer_table(layers: tuple[LayerChange, ...]) -> Table:
    """One row per layer."""
    table = Table(title="Layers", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for header in ("layer", "group"):
        table.add_column(header, overflow="fold")
    for header in ("inputs", "outputs", "MACs", "kept"):
        table.add_column(header, justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(
            layer.name,
            layer.group,
            _arrow(layer.in_channels),
            _arrow(layer.out_channels),
            f"{short(layer.macs.original)} → {short(layer.macs.pruned)}",
            f"{layer.macs.ratio:.0%}",
        )
    return table


def summary_table(report: Report, task: Task = CLASSIFICATION) -> Table:
    """The network before and after."""
    table = Table(title="Summary", title_justify="left", box=box.SIMPLE)
    for header in ("", "original", "pruned", ""):
        table.add_column(header, justify="left" if not header else "right", no_wrap=True)
    for name, change in (
        ("MACs", report.macs),
        ("parameters", report.params),
        ("file, bytes", report.file_bytes),
    ):
        table.add_row(name, f"{change.original:,}", f"{change.pruned:,}", f"{change.ratio:.1%}")
    before, after = report.latency_ms["original"], report.latency_ms["pruned"]
    table.add_row(
        "latency, ms (1 image)",
        f"{before.median:.2f} ± {before.iqr / 2:.2f}",
        f"{after.median:.2f} ± {after.iqr / 2:.2f}",
        f"{after.median / before.median:.1%}",
    )
    original, pruned, recovered = (
        task.shown(report.accuracy[stage]) for stage in ("original", "pruned", "recovered")
    )
    table.add_row(f"test {task.name}, cut", original, pruned, "")
    table.add_row(f"test {task.name}, recovered", "", recovered, "")
    return table


def short(number: int) -> str:
    """Three digits and a unit, so that a row fits 80 columns."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _arrow(change: Change) -> str:
    if change.original == change.pruned:
        return f"{change.original}"
    return f"{change.original} → {change.pruned}"
