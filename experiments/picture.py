"""The picture of the README, from the report of a run: channels, MACs, time, accuracy.

``python experiments/picture.py runs/resnet20-digits-auto-0.5-seed0 docs/assets/result.svg``
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amc.reporting.figures import write_figure

BEFORE, AFTER = "#D5DBE3", "#2F6DB5"


@dataclass(frozen=True)
class Picture:
    """Channels of every layer before and after, beside MACs, time and accuracy."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    path: tyro.conf.Positional[Path]
    """Where the picture goes: .svg, .png or .pdf."""


def draw(report: dict[str, Any], what: str) -> Figure:
    """Layers on the left, what they come to on the right."""
    figure = Figure(figsize=(9.6, 3.1), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    _channels(left, report["layers"], what)
    _sums(right, report)
    return figure


def _channels(axes: Axes, layers: list[dict[str, Any]], what: str) -> None:
    before = [layer["out_channels"]["original"] for layer in layers]
    after = [layer["out_channels"]["pruned"] for layer in layers]
    axes.bar(range(len(layers)), before, color=BEFORE, width=0.8, label="removed")
    axes.bar(range(len(layers)), after, color=AFTER, width=0.8, label="kept")
    axes.set_title(f"{what}: channels that every layer puts out", loc="left", fontsize=10)
    axes.set_xticks(range(len(layers)), [layer["name"] for layer in layers])
    axes.tick_params("x", rotation=90, labelsize=6.5, length=0)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)


def _sums(axes: Axes, report: dict[str, Any]) -> None:
    rows = [("MACs", report["macs"]["ratio"]), ("parameters", report["params"]["ratio"])]
    for timing in report["latency_ms"]:
        if timing["original"] and timing["pruned"]:
            ratio = timing["pruned"]["fastest"] / timing["original"]["fastest"]
            rows.append((f"time, {timing['runtime'].split(',')[0]}", ratio))
    places = range(len(rows))
    axes.barh(places, [1.0] * len(rows), color=BEFORE, height=0.46)
    axes.barh(places, [ratio for _, ratio in rows], color=AFTER, height=0.46)
    for place, (name, ratio) in enumerate(rows):
        axes.text(1.03, place, f"{ratio:.0%}", va="center", fontsize=9)
        axes.text(0.0, place - 0.29, name, va="bottom", fontsize=8)
    score = report["accuracy"]
    words = " → ".join(f"{score[k]:.1%}" for k in ("original", "pruned", "recovered"))
    axes.set_title(f"test accuracy {words}", loc="left", fontsize=10)
    axes.text(0.0, len(rows) - 0.45, "accuracy: before → cut → trained", fontsize=8, va="top")
    axes.set_xlim(0, 1.2)
    axes.set_ylim(len(rows) - 0.2, -0.65)
    axes.set_axis_off()


def main(picture: Picture) -> None:
    """Draws it."""
    report, config = (
        json.loads((picture.run / name).read_text()) for name in ("report.json", "config.json")
    )
    what = f"{config['model']} on {config['data']}"
    write_figure(picture.path, lambda: draw(report, what))


if __name__ == "__main__":
    main(tyro.cli(Picture, description=__doc__))
