"""The account of a run: what was measured, as JSON and as tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.measuring.slow import Slow
from amc.objectives.latency import BUSY, Latency, Timing
from amc.reporting.statistics import Statistics
from amc.tasks.task import CLASSIFICATION, Task


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
class Limited:
    """What was limited: its cost, and the part of it that may stay."""

    original: float
    pruned: float
    target: float
    unit: str

    @property
    def ratio(self) -> float:
        """The part that is left."""
        return self.pruned / self.original


@dataclass(frozen=True)
class LayerChange:
    """What happened to one layer; MACs per sample, heads where whole ones of them go."""

    name: str
    kind: str
    group: str
    in_channels: Change
    out_channels: Change
    macs: Change
    heads: Change | None = None

    @property
    def outputs(self) -> str:
        """Channels that it puts out, and how many heads these are, before and after."""
        heads = f" ({_arrow(self.heads)} heads)" if self.heads else ""
        return f"{_arrow(self.out_channels)}{heads}"


@dataclass(frozen=True)
class Report:
    """Everything that ``report.json`` holds.

    Attributes:
        accuracy: test split, 0 to 1: original, pruned (before any fine-tuning), recovered; of
            another task than classification its own score.
        latency_ms: of one sample, by runtime.
        objective: name of what was limited -> its cost before and after, the part of it that may
            stay, its unit; empty where a strategy was given.
        max_drop: the points of the score that might be lost, those that were, with their standard
            error, and on how many images; None if it was not asked for.
        channel_multiple: of the counts that a budget allowed; none where a strategy was given.
        episodes: tried by the search; 0 when there was none.
        seconds: calibrate, search, apply, finetune, total.
        statistics: filters, FLOPs and parameters in the terms of filter pruning.
        finals: rounds in which strategies were trained before one was chosen: epochs, epochs
            before, images of the score; of every finalist name, strategy, score, difference to the
            first one in points and its standard error; who goes on.
        trained_macs: forward MACs of all images that were trained on, the teacher's apart: in the
            search, in the finals, in the final training.
        shared: the network whose slices strategies were judged by; None if there was none.
        slow: runtimes in which the time does not follow the MACs, with the reason.
        exports: files of the network for elsewhere, see `amc.exporters.export.Export.as_json`; of
            one that could not be written format and problem.
        images: of the test split.
        score: what the task calls its score, and whether that is a part of one.
        made_by: versions, device, machine, the time when the run ended.
        sparsity: the part of weights that was to become zero (target), that is (reached), what
            became so together (units), layer by layer; None if nothing did.
    """

    mode: str
    target: float | None
    objective: Mapping[str, "Limited"]
    max_drop: Mapping[str, float] | None
    channel_multiple: int | None
    macs: Change
    params: Change
    file_bytes: Change
    latency_ms: tuple[Timing, ...]
    accuracy: Mapping[str, float]
    episodes: int
    seconds: Mapping[str, float]
    layers: tuple[LayerChange, ...]
    frozen: Mapping[str, str]
    statistics: Statistics
    finals: Sequence[Mapping[str, Any]] = ()
    trained_macs: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, Any] | None = None
    slow: tuple[Slow, ...] = ()
    exports: Sequence[Mapping[str, Any]] = ()
    images: int = 0
    score: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)
    sparsity: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""

        def with_ratios(value: Any) -> Any:
            if isinstance(value, Change | Limited):
                plain = {k: with_ratios(v) for k, v in asdict(value).items()}
                return {**plain, "ratio": round(value.ratio, 6)}
            if isinstance(value, Statistics):
                return with_ratios(value.as_json())
            if isinstance(value, Mapping):
                return {k: with_ratios(v) for k, v in value.items()}
            if isinstance(value, tuple | list):
                return [with_ratios(v) for v in value]
            if isinstance(value, LayerChange | Timing | Latency | Slow):
                return with_ratios(vars(value))
            return round(value, 6) if isinstance(value, float) else value

        found: dict[str, Any] = with_ratios(vars(self))
        return {**found, "exports": [dict(one) for one in self.exports]}  # errors are small


def layer_changes(graph: ChannelGraph, strategy: Strategy) -> tuple[LayerChange, ...]:
    """Channels and MACs of every layer under a strategy."""
    full, kept = graph.cost, graph.counts(strategy)
    before, after = full.layer_macs(graph.counts({})), full.layer_macs(kept)
    inputs, outputs = full.layer_channels(kept)
    heads = {
        g.name: Change(g.size, strategy.get(g.name, g.size))
        for g in graph.groups
        if g.unit == "head"
    }
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
                heads.get(layer.out_group),
            )
        )
    return tuple(changes)


def remarks(report: Report) -> list[str]:
    """A line for each runtime whose time does not follow the MACs, or that was not measured.

    And one where the machine did other things while it was timed.
    """
    lines = [one.line() for one in report.slow]
    for timing in report.latency_ms:
        if timing.problem:
            lines.append(f"latency  not measured in {timing.runtime}: {timing.problem}")
    if any(timing.disturbed for timing in report.latency_ms):
        lines.append(
            f"busy     turns differ by more than {BUSY:.0%}: time again when the machine is quiet"
        )
    return lines


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
            layer.outputs,
            f"{short(layer.macs.original)} → {short(layer.macs.pruned)}",
            f"{layer.macs.ratio:.0%}",
        )
    return table


def summary_table(report: Report, task: Task = CLASSIFICATION) -> Table:
    """The network before and after; times are medians, with half of the interquartile range."""
    title = "Before and after"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for header in ("original", "pruned", "left"):
        table.add_column(header, justify="right", no_wrap=True)
    score = {stage: task.shown(found) for stage, found in report.accuracy.items()}
    table.add_row(f"test {task.name}", score["original"], score["recovered"], "")
    zeros = report.sparsity
    first = "zeros at once" if zeros and report.params.ratio == 1 else "after the cut"
    table.add_row(f"    {first}, before training", "", score["pruned"], "")
    for name, change in (("MACs", report.macs), ("parameters", report.params)):
        table.add_row(name, f"{change.original:,}", f"{change.pruned:,}", f"{change.ratio:.1%}")
    table.add_row("file", *_in_bytes(report.file_bytes), f"{report.file_bytes.ratio:.1%}")
    if zeros:
        packed = Change(**zeros["zip_bytes"])
        table.add_row("file, compressed", *_in_bytes(packed), f"{packed.ratio:.1%}")
    for name, one in report.objective.items():
        if name not in ("macs", "params"):
            costs = (quantity(cost) for cost in (one.original, one.pruned))
            table.add_row(one.unit, *costs, f"{one.ratio:.1%}")
    for timing in report.latency_ms:
        if timing.original and timing.pruned and timing.ratio is not None:
            times = (spread(t.median, t.iqr / 2) for t in (timing.original, timing.pruned))
            ratio = f"{timing.ratio:.0%} ± {max(timing.spread / 2, 0.01):.0%}"
            table.add_row(f"ms, {timing.where}", *times, ratio)
    return table


def conditions(report: Report) -> list[str]:
    """How the times of the table were measured, in a line; none if there are none."""
    known = [one for one in report.latency_ms if one.ratio is not None]
    if not known:
        return []
    batch = " and ".join(sorted({str(one.batch) for one in known}))
    return [
        f"times    batch {batch}, in turn, {known[0].rounds} rounds: median ± half the "
        "interquartile range"
    ]


def spread(middle: float, half: float) -> str:
    """``0.203 ± 0.002``: three digits, and the spread in the same decimals."""
    digits = max(0, 2 - math.floor(math.log10(middle))) if middle > 0 else 0
    return f"{middle:.{digits}f} ± {max(half, 10.0**-digits):.{digits}f}"


def _in_bytes(change: Change) -> tuple[str, str]:
    return _bytes(change.original), _bytes(change.pruned)


def _bytes(number: int) -> str:
    text = short(number)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def finals_table(rounds: Sequence[Mapping[str, Any]], task: Task = CLASSIFICATION) -> Table:
    """A row per finalist: its score on validation images after each round that it was in.

    And what it had more or less than the first one after the last of these.
    """
    title = "Finals: validation score after epochs of training"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("strategy", overflow="fold")
    for one in rounds:
        epochs = one["before"] + one["epochs"]
        table.add_column(f"{epochs}", justify="right", no_wrap=True)
    first = next(one["name"] for one in rounds[0]["finalists"] if one["first"])
    table.add_column(f"against {first}", justify="right", no_wrap=True)
    rows: dict[str, list[str]] = {}
    for number, one in reversed(list(enumerate(rounds))):
        for entry in one["finalists"]:
            row = rows.setdefault(entry["name"], [""] * len(rounds) + [""])
            row[number] = task.shown(entry["score"])
            if not row[-1] and not entry["first"]:
                row[-1] = _difference(entry["difference"], entry["error"], task)
    winner = rounds[-1]["goes_on"][0]
    for name, row in rows.items():
        table.add_row(f"{name} *" if name == winner else name, *row)
    return table


def _difference(points: float, error: float, task: Task) -> str:
    if task.percent:
        return f"{round(points, 2) + 0.0:+.2f} ± {error:.2f}"  # no minus before a zero
    return f"{points:+.3g} ± {error:.2g}"


def quantity(number: float) -> str:
    """Whole numbers in full, others with four digits."""
    return f"{number:,.0f}" if number == round(number) else f"{number:.4g}"


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
