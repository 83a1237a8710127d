"""Accuracy against size: which networks no other one beats, as a table and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from amc.reporting.figures import RULE, write_figure
from amc.reporting.report import short
from amc.runtime.wording import plain
from amc.tasks.task import CLASSIFICATION, Task


@dataclass(frozen=True)
class Point:
    """One network.

    Attributes:
        target: part of the MACs that it was allowed; 1 for the original.
        macs: per sample.
        params: of the network.
        latency: of one image, as part of the original's, measured side by side.
        accuracy: on images that no search has seen, 0 to 1; of another task, its score.
        test: accuracy on the test split, 0 to 1.
    """

    target: float
    macs: int
    params: int
    latency: float
    accuracy: float
    test: float

    def on_front(self, others: "Sequence[Point]") -> bool:
        """Whether none of the others is as accurate with fewer MACs, or better with as many."""
        return not any(
            (one.macs <= self.macs and one.accuracy > self.accuracy)
            or (one.macs < self.macs and one.accuracy >= self.accuracy)
            for one in others
        )


def smallest(points: Sequence[Point], least: float) -> Point | None:
    """The network of the fewest MACs that is at least this accurate."""
    good = [point for point in points if point.accuracy >= least]
    return min(good, key=lambda point: point.macs, default=None)


def front_table(points: Sequence[Point], original: Point, task: Task = CLASSIFICATION) -> Table:
    """One row per network; * marks those that no other one beats."""
    table = Table(title="Sweep", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for header in ("MACs", "", "parameters", "", "latency", task.name, "drop", "test", "front"):
        table.add_column(header, justify="right", no_wrap=True)
    for point in (original, *points):
        drop = task.points * (original.accuracy - point.accuracy)
        table.add_row(
            short(point.macs),
            f"{point.macs / original.macs:.1%}",
            short(point.params),
            f"{point.params / original.params:.1%}",
            f"{point.latency:.0%}",
            task.shown(point.accuracy),
            "" if point is original else f"{drop:.2f}" if task.percent else f"{drop:.3g}",
            task.shown(point.test),
            "" if point is original else "*" * point.on_front(points),
        )
    return table


def draw_front(
    points: Sequence[Point],
    original: Point,
    path: Path,
    title: str,
    task: Task = CLASSIFICATION,
) -> None:
    """Writes the score against MACs, parameters and latency, atomically."""
    y = f"{task.name}, %" if task.percent else task.name
    write_figure(path, lambda: front(points, original, y, task.points, title))


def front(
    points: Sequence[Point],
    original: Point,
    y: str,
    scale: float,
    title: str = "",
    stacked: bool = False,
) -> Figure:
    """The score against MACs, parameters and latency.

    Args:
        points: the networks.
        original: the one before any cut, as a dashed line.
        y: what the score is called.
        scale: what scores are multiplied by.
        title: above all.
        stacked: for narrow pages: one below the other.
    """
    figure = Figure(figsize=(4.7, 9.0) if stacked else (10, 3.6), layout="constrained")
    every = figure.subplots(3, 1, sharey=True) if stacked else figure.subplots(1, 3, sharey=True)
    if title:
        figure.suptitle(plain(title))
    for axes, name, sizes, whole in (
        (every[0], "MACs", [p.macs for p in points], original.macs),
        (every[1], "parameters", [p.params for p in points], original.params),
        (every[2], "latency of one image", [p.latency for p in points], 1.0),
    ):
        parts = [size / whole for size in sizes]
        accuracies = [scale * p.accuracy for p in points]
        axes.axhline(scale * original.accuracy, color="C7", ls="--", lw=1.0)
        axes.plot(parts, accuracies, color="C0", lw=1.2)
        best = [p.on_front(points) for p in points]
        for part, accuracy, leads in zip(parts, accuracies, best, strict=True):
            face = "C0" if leads else "white"
            axes.plot(part, accuracy, marker="o", color="C0", markerfacecolor=face)
        axes.set_xlabel(f"{name}, part of the original")
        axes.grid(color=RULE)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in every if stacked else every[:1]:
        axes.set_ylabel(plain(y))
    return figure
