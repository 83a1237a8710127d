"""Is the searched strategy better than the uniform one? Whole runs, mean ± standard deviation.

    python experiments/results.py --data digits --ratios 0.5 0.3 0.15
    python experiments/results.py --data glyphs --selectors lasso obs --finetune-epochs 0
    python experiments/results.py --data glyphs --ratios 0.1 0.05 --finetune-epochs 5

Searched and uniform strategies get the same reconstruction, batch-norm adaptation and epochs of
fine-tuning. Runs that are already in the folder are not repeated. Accuracies are of the test
split.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import tyro

from amc.config.train import TrainConfig
from amc.reporting.comparison import percent
from amc.train import run

Selector = Literal["lasso", "obs", "l1", "l2", "random"]
Mode = Literal["auto", "uniform"]


@dataclass(frozen=True)
class Table:
    """What to run."""

    models: tuple[str, ...] = ("resnet20",)
    data: str = "digits"
    ratios: tuple[float, ...] = (0.5, 0.3, 0.15)
    selectors: tuple[Selector, ...] = ("lasso",)
    modes: tuple[Mode, ...] = ("auto", "uniform")
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 200
    finetune_epochs: int = 4
    regime: Literal["calibrate", "finetune"] = "calibrate"
    folder: Path = Path("runs/results")


def report(
    table: Table, model: str, mode: Mode, selector: Selector, ratio: float, seed: int
) -> dict[str, Any]:
    """The report of one run, which is started, or continued, unless it is there."""
    kind = mode if mode == "uniform" else f"{mode}-{table.regime}-{table.episodes}"
    name = f"{model}-{table.data}-{kind}-{selector}-{ratio:g}-{table.finetune_epochs}-{seed}"
    path = table.folder / name / "report.json"
    if not path.exists():
        config = TrainConfig.of(
            model=model,
            data=table.data,
            mode=mode,
            metric=selector,
            preserve_ratio=ratio,
            seed=seed,
            episodes=table.episodes,
            finetune_epochs=table.finetune_epochs,
            regime=table.regime,
            run_dir=path.parent,
            quiet=True,
        )
        started = (path.parent / "config.json").exists()
        run(TrainConfig.of(resume=path.parent, quiet=True) if started else config)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    """Runs what is missing and prints the table."""
    table = tyro.cli(Table)
    print(
        "| network, data | MACs | selector | strategy | before | cut, no training | recovered "
        "| search, s | all, s |\n|---|---|---|---|---|---|---|---|---|"
    )
    for model, ratio, selector, mode in product(
        table.models, table.ratios, table.selectors, table.modes
    ):
        found = [report(table, model, mode, selector, ratio, seed) for seed in table.seeds]
        accuracy = {
            key: percent([r["accuracy"][key] for r in found])
            for key in ("original", "pruned", "recovered")
        }
        macs = mean(r["macs"]["ratio"] for r in found)
        seconds = {key: mean(r["seconds"][key] for r in found) for key in ("search", "total")}
        print(
            f"| {model}, {table.data} | {macs:.3f} | {selector} | {mode} | {accuracy['original']} "
            f"| {accuracy['pruned']} | {accuracy['recovered']} "
            f"| {seconds['search']:.0f} | {seconds['total']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
