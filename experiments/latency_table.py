"""Is the sum of a latency table the time of the whole network, and does a target in time hold?

    python experiments/latency_table.py
    python experiments/latency_table.py --networks vgg16@3x32x32 --runtimes onnxruntime

Random weights, one thread, batches of one. Every table is tried on random networks that nothing
was fitted to. Then two uniform strategies, one with a part of the table's time and one with that
part of the MACs, are timed beside the original, in paired turns.
"""

from dataclasses import dataclass

import numpy as np
import torch
import tyro

from amc.allocators.multiples import budget_for
from amc.allocators.uniform import uniform
from amc.graph.arrays import IntArray
from amc.graph.tracing.trace import trace
from amc.measuring.exported import Exported
from amc.measuring.machine import setup_here
from amc.measuring.measure import Effort, Networks, eager, measured
from amc.measuring.stopwatch import stopwatch
from amc.models.catalog import build
from amc.objectives.latency import clock_for
from amc.objectives.objective import Objective
from amc.runtime.errors import InfeasibleBudgetError


@dataclass(frozen=True)
class Table:
    """What to measure."""

    networks: tuple[str, ...] = ("resnet20@1x16x16", "vgg16@3x32x32", "mobilenet_v2@3x32x32")
    """name@shape."""
    runtimes: tuple[str, ...] = ("onnxruntime", "torch")
    ratio: float = 0.6
    """Part of the time, or of the MACs, that is kept."""
    timed: int = 192
    """Networks that a table is filled with."""
    turns: int = 31
    """Of each network beside the original, for the ratio."""


def beside(networks: Networks, original: IntArray, counts: IntArray, turns: int) -> float:
    """Time as part of the original's: the median of paired turns."""
    watch = stopwatch(clock_for(1, torch.device("cpu")))
    whole, cut = networks(original), networks(counts)
    return float(np.median([watch(cut) / watch(whole) for _ in range(turns)]))


def row(spec: str, runtime: str, table: Table) -> str:
    """Errors of the table, and what became of the target."""
    name, _, shape = spec.partition("@")
    torch.manual_seed(0)
    sample = torch.rand(1, *map(int, shape.split("x")))
    model = build(name, num_classes=10, in_channels=sample.shape[1], width=1.0).eval()
    graph = trace(model, (sample,))
    device = torch.device("cpu")
    networks: Networks = eager(model, graph, sample)
    if runtime == "onnxruntime":
        networks = Exported(model, graph, sample, 1)
    found = measured(
        networks, graph, setup_here(name, shape, device, runtime, 1, 1),
        stopwatch(clock_for(1, device)), Effort(table.timed), None, 0.1,
    )  # fmt: skip
    tell, original = found.table.of(graph), graph.counts({})
    times = Objective("latency", "ms", tell)
    cells = [f"{found.original:.3g}", *(f"{100 * part:.1f}" for part in found.table.error)]
    real, told = found.ms
    near = np.abs(real / found.original - table.ratio) < 0.2
    cells += [f"{100 * np.abs(told / real - 1)[near].max():.1f}" if near.any() else ""]
    cells += [str(found.multiple)]
    for objective in (times, None):
        try:
            budget = budget_for(graph, table.ratio, 8, objective=objective)
        except InfeasibleBudgetError:  # calls of operators cost what no channel changes
            cells += ["out of reach"]
            continue
        counts = graph.counts(uniform(budget))
        ratio = beside(networks, original, counts, table.turns)
        cells += [f"{ratio:.3f}"]
        if objective:
            cells[-1] = f"{tell(counts[None])[0] / tell(original[None])[0]:.3f} → {ratio:.3f}"
    return f"| {name}, {shape} | {runtime} | {' | '.join(cells)} |"


def main() -> None:
    """Measures and prints the table."""
    table = tyro.cli(Table)
    torch.set_num_threads(1)
    print(
        "| network | runtime | original, ms | error, median % | worst | worst near the target | "
        f"rewarded | latency {table.ratio:g}: told → measured | MACs {table.ratio:g}: measured |"
    )
    print("|---" * 9 + "|")
    for spec in table.networks:
        for runtime in table.runtimes:
            print(row(spec, runtime, table), flush=True)


if __name__ == "__main__":
    main()
