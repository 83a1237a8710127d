"""Which number, known within an episode, tells how good a strategy will be in the end?

    python experiments/proxies.py --data glyphs --preserve-ratio 0.1

For random strategies the truth is measured: test accuracy after the final, sequential cut with
batch norm adapted, and after 5 epochs of fine-tuning. Every candidate for the reward is measured
on the same strategies; the table gives Spearman's rank correlation with both truths, a 95 %
bootstrap interval, and what the candidate costs. The truth is kept in a folder, one file per
strategy, and not measured twice; several processes may share the work (--first, --last).
"""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import tyro
from bench import Bench, random_strategy
from scipy.stats import spearmanr
from torch import Tensor

from amc.allocators.uniform import uniform
from amc.calibration.columns import as_columns, input_columns
from amc.calibration.least_squares import error
from amc.graph.groups import Layer
from amc.graph.plan import Strategy
from amc.steps.cut import cut
from amc.tasks.evaluate import Score, evaluate, reference_outputs
from amc.training.recipe import Recipe
from amc.training.short_training import ShortTraining
from amc.training.trainer import train

Truth = dict[str, float]


@dataclass(frozen=True)
class Study:
    """What to measure."""

    data: str = "glyphs"
    preserve_ratio: float = 0.1
    selector: str = "lasso"
    strategies: int = 24
    epochs: int = 5
    first: int = 0
    last: int | None = None
    """Only measure the truth of these strategies; then stop."""
    steps: tuple[int, ...] = (10, 30, 100)
    threads: int = 2
    folder: Path = Path("runs/proxies")


def truth(bench: Bench, strategy: Strategy, epochs: int) -> Truth:
    """Test accuracy and loss after the final cut, and after fine-tuning on the labels."""
    compressor = bench.compressor
    plan = compressor.plan(strategy)
    small = cut(bench.job, compressor, plan)
    before = evaluate(small, bench.data.test)
    torch.manual_seed(0)
    tuned = copy.deepcopy(small)
    train(tuned, bench.data.train, Recipe(epochs, 0.05))
    score = evaluate(tuned, bench.data.test)
    return {
        "cut_test": before.accuracy,
        "before.loss": before.loss,
        "tuned_test": score.accuracy,
        "tuned_loss": score.loss,
    }


def candidates(
    bench: Bench, steps: tuple[int, ...]
) -> dict[str, Callable[[Strategy], dict[str, float]]]:
    """What is measured together -> its results by name; higher is better."""
    compressor, validation, model = bench.compressor, bench.job.validation, bench.model
    graph, reference = bench.graph, reference_outputs(bench.model, bench.job.validation)

    def scored(score: Score, what: str) -> dict[str, float]:
        assert score.divergence is not None
        return {
            f"accuracy{what}": score.accuracy,
            f"-loss{what}": -score.loss,
            f"-divergence{what}": -score.divergence,
        }

    def reconstruction(strategy: Strategy) -> dict[str, float]:
        plan, total = compressor.plan(strategy), 0.0
        inputs = {(c.tensor, c.dim): c.keep for c in plan.cuts}
        for name, layer in compressor._solved.items():
            if (kept := inputs.get((name, layer.in_dim))) is not None:
                stats = compressor.stats[layer.name]
                weight = compressor._solve(layer, kept)
                columns, flat = _columns(weight, layer, kept)
                total += error(stats, columns, flat) / stats.energy
        return {"reconstruction error": -total}

    def widths(strategy: Strategy) -> dict[str, float]:
        ratios = [strategy[g.name] / g.size for g in graph.decisions]
        return {
            "parameters": float(graph.cost.params(graph.counts(strategy))),
            "mean log width": float(np.log(ratios).mean()),
            "narrowest group": min(ratios),
        }

    def adapted(strategy: Strategy, by_batch: bool, what: str) -> dict[str, float]:
        return scored(evaluate(compressor.view(strategy), validation, by_batch, reference), what)

    found: dict[str, Callable[[Strategy], dict[str, float]]] = {
        "widths": widths,
        "reconstruction": reconstruction,
        "running": lambda s: adapted(s, False, ", running statistics"),
        "batch": lambda s: adapted(s, True, ", batch statistics"),
    }
    for distilled, count in product((False, True), steps):
        quick = ShortTraining.of(bench.data.train, count, model if distilled else None)
        name = f" after {count} steps" + (", distilled" if distilled else "")
        found[name] = lambda s, q=quick, n=name: scored(  # type: ignore[misc]
            q.tuned(compressor.cut(s), validation, reference), n
        )
    return found


def _columns(weight: Tensor, layer: Layer, kept: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return input_columns(torch.tensor(kept), weight).flatten(), as_columns(weight, layer)


def interval(x: list[float], y: list[float]) -> str:
    """Spearman's correlation with a 95 % bootstrap interval."""
    rng, n = np.random.default_rng(0), len(x)
    a, b = np.array(x), np.array(y)
    draws = [rng.integers(n, size=n) for _ in range(1000)]
    low, high = np.nanquantile([spearmanr(a[d], b[d]).statistic for d in draws], [0.025, 0.975])
    return f"{spearmanr(a, b).statistic:+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    """Measures what is missing and prints the table."""
    study = tyro.cli(Study)
    torch.set_num_threads(study.threads)
    bench = Bench("resnet20", study.data, study.selector)
    budget = bench.budget(study.preserve_ratio)
    study.folder.mkdir(parents=True, exist_ok=True)
    last = study.strategies if study.last is None else study.last
    strategies, truths = [], []
    for number in range(study.first, last):
        strategies.append(random_strategy(budget, number) if number else uniform(budget))
        path = study.folder / f"{study.data}-{study.preserve_ratio:g}-{number}.json"
        if not path.exists():
            path.write_text(json.dumps(truth(bench, strategies[-1], study.epochs)))
            print(path, path.read_text(), flush=True)
        truths.append(json.loads(path.read_text()))
    if study.last is not None:
        return
    print(f"resnet20, {study.data}, {study.preserve_ratio:g}, {len(truths)} strategies")
    spread = {k: [t[k] for t in truths] for k in ("cut_test", "tuned_test")}
    for key, values in spread.items():
        print(f"{key}: {min(values):.3f} to {max(values):.3f}, uniform {values[0]:.3f}")
    print("| candidate | after the cut | after fine-tuning | seconds |")
    print("|---|---|---|---|")
    for function in candidates(bench, study.steps).values():
        function(strategies[0])
        start = time.perf_counter()
        found = [function(s) for s in strategies]
        seconds = (time.perf_counter() - start) / len(strategies)
        for name in found[0]:
            values = [one[name] for one in found]
            print(
                f"| {name} | {interval(values, spread['cut_test'])} "
                f"| {interval(values, spread['tuned_test'])} | {seconds:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
