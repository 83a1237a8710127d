"""Attention heads and MLP widths of a small vision transformer: what is left when half of them go?

    python experiments/heads.py --data digits --arms halves halves-l2
    python experiments/heads.py --data digits --ratios 0.5 0.25 --arms uniform ddpg --seeds 0 1 2
    python experiments/heads.py --show

Removed for real, with `--target channels,heads`. `halves` keeps half of the heads of every
attention and half of every MLP's width, and all of the stem; channels by OBS, with reconstruction.
`halves-l2` keeps the same counts by their L2 norms, and repairs nothing. `uniform` and an agent
have a budget of MACs. All are trained alike. What is in the file is not measured again.
"""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro
from cells import Cell, Lab, short

from amc.gradual.recover import recover
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.graph.shrink import shrink
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.steps.allocate import Allocation

ROWS = Path(__file__).with_name("heads.jsonl")
"""What the table of the documentation shows."""

HALVES = ("halves", "halves-l2")
"""Arms that have no budget."""


@dataclass(frozen=True)
class Table:
    """What to compare."""

    data: tuple[str, ...] = ("digits",)
    ratios: tuple[float, ...] = (0.5,)
    arms: tuple[str, ...] = (*HALVES, "uniform", "ddpg")
    seeds: tuple[int, ...] = (0,)
    epochs: int = 4
    """Of training."""
    episodes: int = 100
    """Of the agent."""
    show: bool = False
    """Only show what is known."""
    out: Path = ROWS
    """File of rows."""
    common: dict[str, float] = field(default_factory=dict)
    """Settings of all arms, as ``learning_rate 0.02``."""

    def cells(self) -> Iterator[tuple[str, int, str, float | None]]:
        """Data, seed, arm, part of the MACs that may stay."""
        for data in self.data:
            for seed in self.seeds:
                for arm in self.arms:
                    for ratio in (None,) if arm in HALVES else self.ratios:
                        yield data, seed, arm, ratio


def halves(graph: ChannelGraph) -> Strategy:
    """Half of all heads, and of the channels between two linear layers."""
    linear = {layer.name for layer in graph.layers if layer.kind == "linear"}
    return {g.name: g.size // 2 for g in graph.decisions if linear >= {*g.writers, *g.readers}}


def measured(lab: Lab, cell: Cell, arm: str) -> dict[str, Any]:
    """What an arm leaves, right after the cut and after training."""
    graph = lab.network.graph
    if arm == "halves-l2":
        found = repaired_by_training(lab, cell)
    else:
        own = {} if arm in HALVES else {"allocator": arm}
        found = lab.ours(cell, own, (lambda b, e: halves(graph)) if arm in HALVES else None)
    strategy = found["strategy"]
    heads = [g for g in graph.decisions if g.unit == "head"]
    whole, kept = sum(g.size for g in heads), sum(strategy.get(g.name, g.size) for g in heads)
    names = ("macs", "params", "before", "cut", "trained", "strategy")
    return {**{name: found[name] for name in names}, "heads": [whole, kept]}


def repaired_by_training(lab: Lab, cell: Cell) -> dict[str, Any]:
    """Half of the heads and widths cut without any reconstruction, trained as the others are."""
    job, network, config = lab.job, lab.network, lab.settings(cell)
    plan = lab.compressor.plan(halves(network.graph))
    small = shrink(network.model, plan)
    cut = job.tested(small).accuracy
    with TemporaryDirectory() as name:
        log = TensorBoardLog(Path(name), network.graph.sizes, network.graph.macs())
        allocation = Allocation(strategy=plan.strategy)
        tuned, plan, _ = recover(
            job, network, small, plan, config, Path(name), log, allocation, None
        )
    return {
        "macs": network.graph.macs(plan) / network.graph.macs(),
        "params": network.graph.params(plan), "before": lab.before, "cut": cut,
        "trained": job.tested(tuned).accuracy, "strategy": plan.strategy,
    }  # fmt: skip


def measure(table: Table) -> None:
    """Appends a row for everything that is not known yet."""
    labs: dict[tuple[str, int, str], Lab] = {}
    for data, seed, arm, ratio in table.cells():
        key = {
            "data": short(data), "seed": seed, "arm": arm, "ratio": ratio,
            "epochs": table.epochs, "common": table.common,
        }  # fmt: skip
        if any(key.items() <= row.items() for row in known(table.out)):
            continue
        start, metric = time.perf_counter(), "l2" if arm == "halves-l2" else "obs"
        cell = Cell("vit", data, ratio or 0.5, 1, seed)
        if (data, seed, metric) not in labs:
            common = {
                "metric": metric, "target": "channels,heads",
                "finetune_epochs": table.epochs, "episodes": table.episodes, **table.common,
            }  # fmt: skip
            labs = {(data, seed, metric): Lab(cell, common, Path("weights"))}
        found = measured(labs[data, seed, metric], cell, arm)
        row = {**key, **found, "seconds": time.perf_counter() - start}
        with table.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(*key.values(), f"{found['cut']:.4f} {found['trained']:.4f}", flush=True)


def known(path: Path) -> list[dict[str, Any]]:
    """The rows that are there."""
    return [json.loads(line) for line in path.open()] if path.exists() else []


def show(rows: list[dict[str, Any]]) -> None:
    """One line of a Markdown table for each arm, over the seeds."""
    print("| data | arm | MACs | heads | before | cut | trained | seeds |\n" + 8 * "|---" + "|")
    arms: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        settings = tuple(row["common"].items())
        arms.setdefault((row["data"], row["arm"], row["ratio"], settings), []).append(row)
    for (data, arm, _, settings), found in arms.items():
        macs = statistics.mean(row["macs"] for row in found)
        heads = statistics.mean(row["heads"][1] for row in found)
        scores = (_spread([row[name] for row in found]) for name in ("before", "cut", "trained"))
        words = " ".join(f"{name} {value:g}" for name, value in settings)
        print(f"| {data} | {arm} {words} | {macs:.3f} | {heads:.0f} of {found[0]['heads'][0]} | "
              f"{' | '.join(scores)} | {len(found)} |")  # fmt: skip


def _spread(parts: list[float]) -> str:
    percent = [100 * part for part in parts]
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{statistics.mean(percent):.1f} ± {statistics.stdev(percent):.1f}"


if __name__ == "__main__":
    given = tyro.cli(Table)
    if not given.show:
        measure(given)
    show(known(given.out))
