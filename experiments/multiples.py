"""What do channel counts in multiples of 8 cost in accuracy, and what do they bring in time?

    python experiments/multiples.py --arms 1@0.5 auto@0.5 1@0.25
    python experiments/multiples.py --arms 1@0.5 auto@0.5 --mode auto --epochs 0

An arm is a channel multiple and a part of the MACs: at equal MACs, and at the MACs at which odd
counts take no more time. Whole runs; those that are in the folder are not repeated. The time is
onnxruntime's, one thread, as part of the original's; accuracies are of the test split.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import tyro

from amc.config.train import TrainConfig
from amc.reporting.comparison import percent
from amc.train import run


@dataclass(frozen=True)
class Table:
    """What to run."""

    arms: tuple[str, ...] = ("1@0.5", "auto@0.5")
    """multiple@ratio."""
    model: str = "resnet20"
    width: float = 1.0
    data: str = "glyphs"
    mode: Literal["auto", "uniform"] = "uniform"
    selector: Literal["lasso", "obs"] = "obs"
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 5
    episodes: int = 200
    folder: Path = Path("runs/multiples")


def report(table: Table, arm: str, seed: int) -> dict[str, Any]:
    """The report of one run, which is started, or continued, unless it is there."""
    multiple, _, ratio = arm.partition("@")
    name = f"{table.model}-{table.width:g}-{table.data}-{table.mode}-{table.selector}"
    place = table.folder / f"{name}-{arm}-{table.epochs}-{seed}"
    if not (place / "report.json").exists():
        config = TrainConfig.of(
            model=table.model,
            width=table.width,
            data=table.data,
            mode=table.mode,
            selector=table.selector,
            preserve_ratio=float(ratio),
            channel_multiple="auto" if multiple == "auto" else int(multiple),
            episodes=table.episodes,
            finetune_epochs=table.epochs,
            seed=seed,
            run_dir=place,
            quiet=True,
        )
        started = (place / "config.json").exists()
        run(TrainConfig.of(resume=place, quiet=True) if started else config)
    found: dict[str, Any] = json.loads((place / "report.json").read_text())
    return found


def main() -> None:
    """Runs what is missing and prints the table."""
    table = tyro.cli(Table)
    print("| network, data | strategy | multiple | MACs | time | before | cut | trained | seeds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arm in table.arms:
        found = [report(table, arm, seed) for seed in table.seeds]
        accuracy = [
            percent([r["accuracy"][key] for r in found])
            for key in ("original", "pruned", "recovered")
        ]
        multiples = sorted({r["channel_multiple"] for r in found})
        times = mean(r["latency_ms"][-1]["ratio"] for r in found)
        print(
            f"| {table.model}, {table.data} | {table.mode} | {', '.join(map(str, multiples))} "
            f"| {mean(r['macs']['ratio'] for r in found):.3f} | {times:.2f} "
            f"| {' | '.join(accuracy)} | {len(found)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
