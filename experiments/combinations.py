"""One interface: every metric under two allocators, every allocator with two metrics.

    python experiments/combinations.py --part metrics --out metrics.jsonl
    python experiments/combinations.py --part allocators --out allocators.jsonl
    python experiments/combinations.py --show metrics.jsonl allocators.jsonl

ResNet-20 on Glyphs-62, at half and three tenths of the MACs. Every row of the file is one strategy
that was cut for real: test accuracy after the cut, and after `--steps` training steps, the same
for all; the score is of the first `--images` test images. A seed draws the positions that layers
are solved on, and everything random of a search. Allocators that evaluate have `--episodes`
evaluations each. A file is gone on with.
"""

import copy
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import tyro
from torch import nn

from amc.config.compare import CompareConfig
from amc.metrics import METRICS
from amc.reporting.comparison import percent
from amc.runs.terminal import Terminal
from amc.runtime.names import ALLOCATORS
from amc.steps.cut import calibrate, cut
from amc.steps.job import Job, open_job
from amc.steps.limits import make_budget
from amc.steps.setup import Network, build_network, load_network, trace_network
from amc.studies.contest import Contest
from amc.tasks.batches import head
from amc.tasks.evaluate import evaluate
from amc.training.short_training import ShortTraining

WITHOUT_CHANCE = ("uniform", "ranking")
WITH = ("lasso", "obs")


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    part: Literal["metrics", "allocators"] = "metrics"
    out: Path = Path("combinations.jsonl")
    show: tuple[Path, ...] = ()
    ratios: tuple[float, ...] = (0.5, 0.3)
    seeds: int = 3
    episodes: int = 40
    steps: int = 60
    images: int = 3100
    calibration_batches: int = 30
    model: str = "resnet20"
    data: str = "glyphs"
    shard: tuple[int, int] = (0, 1)  # every so-manieth cell, for several processes


def cells(setting: Setting) -> Iterator[tuple[int, float, str, str]]:
    """(seed, ratio, metric, allocator); a seed is a whole table."""
    searching = [name for name in ALLOCATORS if name not in ("list", *WITHOUT_CHANCE)]
    for seed in range(setting.seeds):
        for ratio in setting.ratios:
            metrics = tuple(METRICS) if setting.part == "metrics" else WITH
            for metric in metrics:
                every = WITHOUT_CHANCE if setting.part == "metrics" else searching
                for allocator in every:
                    yield seed, ratio, metric, allocator


class Bench:
    """What all cells share: data, network, and a training that is the same for all."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.terminal = Terminal(quiet=True)
        self.job, self.network = self._opened(0)
        self.test = head(self.job.data.test, setting.images, 256)
        self.training = ShortTraining.of(self.job.data.train, setting.steps, self.network.model)

    def _config(self, ratio: float, metric: str, folder: Path) -> CompareConfig:
        setting = self.setting
        return CompareConfig.of(
            preserve_ratio=ratio, metric=metric, model=setting.model, data=setting.data,
            episodes=setting.episodes, calibration_batches=setting.calibration_batches,
            run_dir=folder, quiet=True, reward_images=300,
        )  # fmt: skip

    def _opened(self, seed: int) -> tuple[Job, Network]:
        config = self._config(0.5, "lasso", Path("."))
        job = replace(open_job(config, self.terminal), seed=seed)
        given = build_network(job, config.network)
        graph = trace_network(job, given, config.restrictions)
        return job, load_network(job, given, graph, config.network, config.data)

    def row(self, seed: int, ratio: float, metric: str, allocator: str) -> dict[str, Any]:
        """One strategy, cut and trained."""
        start = time.perf_counter()
        job = replace(self.job, seed=seed, metric=METRICS[metric])
        compressor = calibrate(job, self.network.graph, self.network.model)
        with TemporaryDirectory() as folder:
            config = self._config(ratio, metric, Path(folder))
            budget = make_budget(self.network.graph, ratio, config)
            contest = Contest(config, job, self.network, compressor, budget, Path(folder))
            with self.terminal.bar(allocator) as bar:
                found = contest.searched(allocator, seed, Path(folder) / "record.jsonl", bar)
            searched = time.perf_counter() - start
            small = cut(job, compressor, compressor.plan(found.strategy))
        seconds = time.perf_counter() - start
        before, trained = self._accuracy(small), copy.deepcopy(small)
        self.training.tuned(trained, self.test[:1])
        return {
            "seed": seed, "ratio": ratio, "metric": metric, "allocator": allocator,
            "macs": found.macs / self.network.graph.macs(), "cut": before,
            "trained": self._accuracy(trained.eval()), "evaluations": len(found.rewards),
            "search_seconds": searched, "seconds": seconds,
        }  # fmt: skip

    def _accuracy(self, model: nn.Module) -> float:
        return evaluate(model.eval(), self.test).accuracy


def main() -> None:
    """Measures what the file does not hold yet; or shows what files hold."""
    setting = tyro.cli(Setting)
    if setting.show:
        rows = [json.loads(line) for path in setting.show for line in path.open()]
        shown(rows)
        return
    known = [json.loads(line) for line in setting.out.open()] if setting.out.exists() else []
    done = {(r["seed"], r["ratio"], r["metric"], r["allocator"]) for r in known}
    bench = Bench(setting)
    first, apart = setting.shard
    for cell in list(cells(setting))[first::apart]:
        if cell not in done:
            row = bench.row(*cell)
            with setting.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                *cell, f"{row['cut']:.4f} {row['trained']:.4f} {row['seconds']:.0f} s", flush=True
            )


def shown(rows: list[dict[str, Any]]) -> None:
    """Two tables: metrics by allocator and ratio, and allocators by metric and ratio."""
    cell = defaultdict(list)
    for row in rows:
        cell[row["metric"], row["allocator"], row["ratio"]].append(row)
    ratios = sorted({key[2] for key in cell}, reverse=True)
    tables = {
        "metric": ([m for m in METRICS if m != "list"], list(WITHOUT_CHANCE)),
        "allocator": ([*WITHOUT_CHANCE, *(a for a in ALLOCATORS if a not in LEFT)], list(WITH)),
    }
    for what, (names, others) in tables.items():
        columns = [(other, ratio) for ratio in ratios for other in others]
        heads = [f"{other}, {ratio:g}" for other, ratio in columns]
        print(f"\n| {what} | {' | '.join(heads)} | s |\n{'|---' * (len(heads) + 2)}|")
        for name in names:
            pairs = [((name, o) if what == "metric" else (o, name), r) for o, r in columns]
            found = [cell.get((*pair, ratio), []) for pair, ratio in pairs]
            times = [r["seconds"] for some in found for r in some]
            if times:
                cells = [words(some) for some in found]
                print(f"| {name} | {' | '.join(cells)} | {median(times):.0f} |")


LEFT = ("list", *WITHOUT_CHANCE)


def words(found: list[dict[str, Any]]) -> str:
    """Accuracy after the cut and after training, mean and spread in percent; how many seeds."""
    if not found:
        return ""
    cut, trained = (percent([r[key] for r in found]) for key in ("cut", "trained"))
    return f"{cut} → {trained} ({len(found)})"


if __name__ == "__main__":
    main()
