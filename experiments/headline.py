"""The README's first table: MACs, measured time and accuracy, beside torch-pruning.

    python experiments/headline.py
    python experiments/headline.py --arms auto@0.5 --mode auto
    python experiments/headline.py --model mobilenet_v2 --width 0.25 --epochs 3

An arm is a channel multiple, or torch-pruning (trained as it comes, on labels alone, or with our
distillation), and a part of the MACs. Whole runs; those that are in the folder are not repeated.
Accuracies are of the test split. Time is onnxruntime's, one image, one thread, as part of the
original's: all networks of the table take turns, so that other work on the machine hits them
alike.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
import tyro
from recovery import Table as Recovered
from recovery import pruned, theirs
from torch import nn

from amc.config.train import TrainConfig
from amc.data import load_data
from amc.models.catalog import build
from amc.models.pretrained import pretrained
from amc.objectives.latency import session
from amc.reporting.comparison import percent
from amc.runs.network import load_pruned
from amc.train import run

ROUNDS, RUNS = 40, 25
"""Turns of every network, and executions in a turn; the fastest of all counts."""


@dataclass(frozen=True)
class Table:
    """What to run."""

    arms: tuple[str, ...] = (
        "auto@0.5",
        "1@0.5",
        "torch-pruning-distilled@0.5",
        "torch-pruning@0.5",
    )
    """multiple@ratio, or torch-pruning@ratio, torch-pruning-distilled@ratio."""
    model: str = "resnet20"
    width: float = 1.0
    data: str = "glyphs"
    mode: Literal["auto", "uniform"] = "uniform"
    selector: Literal["lasso", "obs"] = "obs"
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 5
    episodes: int = 200
    folder: Path = Path("runs/headline")


def place(table: Table, arm: str, seed: int) -> Path:
    """The folder of one of our runs."""
    name = f"{table.model}-{table.width:g}-{table.data}-{table.mode}-{table.selector}"
    return table.folder / f"{name}-{arm}-{table.epochs}-{seed}"


def ours(table: Table, arm: str, seed: int) -> dict[str, float]:
    """What came of one of our runs, which is started, or continued, unless it is there."""
    multiple, _, ratio = arm.partition("@")
    folder = place(table, arm, seed)
    if not (folder / "report.json").exists():
        config = TrainConfig.of(
            model=table.model,
            width=table.width,
            data=table.data,
            mode=table.mode,
            metric=table.selector,
            preserve_ratio=float(ratio),
            channel_multiple="auto" if multiple == "auto" else int(multiple),
            episodes=table.episodes,
            finetune_epochs=table.epochs,
            seed=seed,
            run_dir=folder,
            quiet=True,
        )
        started = (folder / "config.json").exists()
        run(TrainConfig.of(resume=folder, quiet=True) if started else config)
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return {**found["accuracy"], "macs": found["macs"]["ratio"]}


def of_torch_pruning(table: Table, arm: str, seed: int) -> dict[str, float]:
    """The same of torch-pruning's cut."""
    kind, _, ratio = arm.partition("@")
    settings = Recovered(
        table.model, table.width, table.data, epochs=table.epochs, folder=table.folder
    )
    return theirs(settings, kind.endswith("distilled"), float(ratio), seed)


def network(table: Table, arm: str, original: nn.Module) -> nn.Module:
    """The network of an arm, of the first seed; its time does not depend on its weights."""
    kind, _, ratio = arm.partition("@")
    if kind.startswith("torch-pruning"):
        return pruned(original, load_data(table.data), float(ratio))[0]
    return load_pruned(original, place(table, arm, table.seeds[0]))


def times(table: Table) -> dict[str, float]:
    """Time of every arm's network as part of the original's."""
    torch.set_num_threads(1)
    data = load_data(table.data)
    original = pretrained(table.model, table.width, data)[0].eval()
    shape: dict[str, Any] = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    sample = torch.randn(1, *data.input_shape, generator=torch.Generator().manual_seed(0))
    runs = {"original": session(build(table.model, **shape, width=table.width).eval(), sample)}
    runs |= {arm: session(network(table, arm, original).eval(), sample) for arm in table.arms}
    fastest = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for arm, execute in runs.items():
            for _ in range(RUNS):
                start = time.perf_counter()
                execute()
                fastest[arm] = min(fastest[arm], time.perf_counter() - start)
    return {arm: one / fastest["original"] for arm, one in fastest.items()}


def main() -> None:
    """Runs what is missing and prints the table."""
    table = tyro.cli(Table)
    rows = {}
    for arm in table.arms:
        way = of_torch_pruning if arm.startswith("torch-pruning") else ours
        rows[arm] = [way(table, arm, seed) for seed in table.seeds]
    measured = times(table)
    print("| network, data | strategy | arm | MACs | time | before | cut | trained | seeds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arm, found in rows.items():
        keys = ("original", "pruned", "recovered")
        accuracy = [percent([one[key] for one in found]) for key in keys]
        print(
            f"| {table.model}, {table.data} | {table.mode} | {arm} "
            f"| {mean(one['macs'] for one in found):.3f} | {measured[arm]:.2f} "
            f"| {' | '.join(accuracy)} | {len(found)} |"
        )


if __name__ == "__main__":
    main()
