"""The README's result table: whole runs at several seeds, mean ± standard deviation.

    python experiments/results.py --models resnet20 --data digits --ratios 0.5 0.3 --seeds 0 1 2

Searched and uniform strategies get the same reconstruction, batch-norm adaptation and epochs of
fine-tuning. Runs that are already in the folder are not repeated. Accuracies are of the test
split.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import tyro

from amc.config import TrainConfig
from amc.train import run


@dataclass(frozen=True)
class Table:
    """What to run."""

    models: tuple[str, ...] = ("resnet20",)
    data: str = "digits"
    ratios: tuple[float, ...] = (0.5, 0.3, 0.15)
    modes: tuple[Literal["auto", "uniform"], ...] = ("auto", "uniform")
    seeds: tuple[int, ...] = (0, 1, 2)
    finetune_epochs: int = 4
    folder: Path = Path("runs/results")


def report(
    table: Table, model: str, mode: Literal["auto", "uniform"], ratio: float, seed: int
) -> dict:
    """The report of one run, which is started unless it is there."""
    name = f"{model}-{table.data}-{mode}-{ratio:g}-{table.finetune_epochs}-{seed}"
    path = table.folder / name / "report.json"
    if not path.exists():
        config = TrainConfig(
            model=model,
            data=table.data,
            mode=mode,
            preserve_ratio=ratio,
            seed=seed,
            finetune_epochs=table.finetune_epochs,
            run_dir=path.parent,
            quiet=True,
        )
        run(config)
    return json.loads(path.read_text())


def spread(values: list[float]) -> str:
    """Percentages: mean ± standard deviation, or the value alone."""
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}"


def main() -> None:
    """Runs what is missing and prints the table."""
    table = tyro.cli(Table)
    print("| network, data | MACs | strategy | before | cut, no training | recovered | seconds |")
    print("|---|---|---|---|---|---|---|")
    for model in table.models:
        for ratio in table.ratios:
            for mode in table.modes:
                found = [report(table, model, mode, ratio, seed) for seed in table.seeds]
                accuracy = {
                    key: spread([r["accuracy"][key] for r in found])
                    for key in ("original", "pruned", "recovered")
                }
                macs = mean(r["macs"]["ratio"] for r in found)
                seconds = mean(r["seconds"]["total"] for r in found)
                print(
                    f"| {model}, {table.data} | {macs:.3f} | {mode} | {accuracy['original']} "
                    f"| {accuracy['pruned']} | {accuracy['recovered']} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
