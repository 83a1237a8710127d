"""Strategies of the same MACs, timed: how long do searched and uniform widths take?

    python experiments/pays_time.py
    python experiments/pays_time.py --ratios 0.15 --multiples 8 --networks vgg16-x0.25

Strategies are those of `pays.py`'s rows. The original and all strategies of a cell take turns in
onnxruntime, one thread, batches of one: the median over the rounds of the part of the original's
time, mean, least and most over the seeds. Weights do not matter for that.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import tyro
from cells import Cell
from pays import ROWS, spread
from rows import rows

from amc.exporters.onnx_program import Run
from amc.graph.tracing.trace import trace
from amc.measuring.exported import Exported
from amc.models.catalog import build
from amc.objectives.latency import race

CLASSES, IMAGE = 62, (1, 3, 32, 32)
"""Of glyphs."""


@dataclass(frozen=True)
class Table:
    """What to time."""

    networks: tuple[str, ...] = ("vgg16-x0.25", "mobilenet_v1-x0.25", "mobilenet_v2-x0.25")
    ratios: tuple[float, ...] = (0.15,)
    multiples: tuple[int, ...] = (1, 8)
    arms: tuple[str, ...] = ("uniform+learning_rate=0.02", "searched+learning_rate=0.02")
    rows: Path = ROWS


def timed(network: str, found: list[dict[str, Any]]) -> list[float]:
    """Parts of the original's time, one for every row."""
    settings = Cell(network, "glyphs", 1.0).settings
    torch.manual_seed(0)
    model = build(
        settings["model"], num_classes=CLASSES, in_channels=IMAGE[1], width=settings["width"]
    ).eval()
    image = torch.randn(IMAGE)
    graph = trace(model, (image,))
    networks = Exported(model, graph, image, threads=1)
    counts = [graph.counts({}), *(graph.counts(row["strategy"]) for row in found)]
    runs: list[Run] = [networks(one) for one in counts]
    first, *rest = race(runs, 1, "cpu")
    return [median(b.median / a.median for a, b in zip(first, one, strict=True)) for one in rest]


def lines(table: Table) -> Iterator[str]:
    """The table, in Markdown: a line for every cell and arm."""
    yield "| network | MACs | multiple | arm | time | trained | seeds |"
    yield "|---|---|---|---|---|---|---|"
    known = [row for row in rows(table.rows) if row["data"] == "glyphs"]
    for network in table.networks:
        cells = defaultdict(list)
        for row in known:
            place = row["ratio"] in table.ratios and row["multiple"] in table.multiples
            if row["network"] == network and row["arm"] in table.arms and place:
                cells[row["ratio"], row["multiple"], row["arm"]].append(row)
        every = [row for some in cells.values() for row in some]
        times = iter(timed(network, every)) if every else iter(())
        for (ratio, multiple, arm), some in cells.items():
            parts = [next(times) for _ in some]
            yield (
                f"| {network} | {ratio:g} | {multiple} | {arm} | {mean(parts):.2f} "
                f"({min(parts):.2f} to {max(parts):.2f}) "
                f"| {spread([100 * row['trained'] for row in some])} | {len(some)} |"
            )


def main() -> None:
    """Times what is known, and shows the table."""
    for line in lines(tyro.cli(Table)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
