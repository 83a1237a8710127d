"""Which channels to keep: Lasso, optimal brain surgeon, weight norms, at the same widths.

    python experiments/selection.py --data glyphs --ratios 0.5 0.3 0.15

Uniform strategies, no fine-tuning. "cached" solves every layer on the statistics of the original
network; "sequential" solves in execution order, inputs from the network pruned so far, the second
time with batch norm adapted after every layer. Accuracies are of the test split, over the seeds
of the sampled positions.
"""

import time
from dataclasses import dataclass
from functools import partial
from statistics import mean

import tyro

from amc.allocators.uniform import uniform
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import Sampling
from amc.data import load_data
from amc.graph.tracing.trace import trace
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.pretrained import pretrained
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import compress
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.reporting.comparison import percent
from amc.runtime import feed
from amc.tasks.batches import head
from amc.tasks.evaluate import evaluate


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    model: str = "resnet20"
    data: str = "glyphs"
    ratios: tuple[float, ...] = (0.5, 0.3, 0.15)
    selectors: tuple[str, ...] = ("l1", "lasso", "obs")
    seeds: tuple[int, ...] = (0, 1, 2)
    calibration_batches: int = 60


def main() -> None:
    """Prints the table."""
    setting = tyro.cli(Setting)
    data = load_data(setting.data)
    model = pretrained(setting.model, 1.0, data)[0].eval()
    images = head(data.calibration, 32 * setting.calibration_batches, 32)
    graph = trace(model, (feed.rows(images[0][0], slice(2)),))
    print(f"{setting.model}, {data.name}: {evaluate(model, data.test).accuracy:.1%} before\n")
    print("| MACs | selector | cached | sequential | + batch norm | selection, s |")
    print("|---|---|---|---|---|---|")
    for ratio in setting.ratios:
        strategy = uniform(Budget(graph, ratio))
        for name in setting.selectors:
            rows = []
            for seed in setting.seeds:
                sampling = Sampling(seed=seed)
                stats = calibrate(graph, model, images, sampling)
                compressor = Compressor(
                    graph,
                    model,
                    stats,
                    partial(selection_of, METRICS[name], Evidence(graph, model, stats, seed)),
                )
                start = time.perf_counter()
                plan = compressor.plan(strategy)
                seconds = time.perf_counter() - start
                cut = evaluate(compressor.cut(strategy), data.test).accuracy
                originals = OriginalOutputs(graph, model, images, sampling)
                final = compress(compressor, plan, originals)
                sequential = evaluate(final, data.test).accuracy
                final = compress(compressor, plan, originals, adapt=True)
                adapted = evaluate(final, data.test).accuracy
                rows.append((cut, sequential, adapted, seconds))
            *accuracies, times = zip(*rows, strict=True)
            cells = " | ".join(percent(list(found)) for found in accuracies)
            print(f"| {ratio} | {name} | {cells} | {mean(times):.2f} |", flush=True)


if __name__ == "__main__":
    main()
