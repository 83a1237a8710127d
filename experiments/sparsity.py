"""How much do zeros among the weights cost? Levels and metrics on one network, before and after.

    python experiments/sparsity.py --data glyphs idx:/usr/share/datasets/fashion-mnist?train=12000
    python experiments/sparsity.py --arms rb --levels 0.7 --epochs 10 --common sparsity_rate 0.02
    python experiments/sparsity.py --show

A row is one run of `amc.train`, with its zeros counted in the file that it leaves. `const` trains
on from the network that `magnitude` of the same level has left, and its zeros are compared with
those of that one, weight by weight. Accuracies are of the test split. What is in the file is not
measured again, so that a stopped table goes on.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from cells import short
from safetensors.torch import load_file
from torch import Tensor

from amc.config.train import TrainConfig
from amc.train import run

ROWS = Path(__file__).with_name("sparsity.jsonl")
"""What the tables of the documentation show."""

MASTER = "magnitude"
"""The arm whose network `const` trains on."""


@dataclass(frozen=True)
class Table:
    """What to compare."""

    network: str = "resnet20"
    data: tuple[str, ...] = ("glyphs",)
    levels: tuple[float, ...] = (0.7, 0.9, 0.5)
    arms: tuple[str, ...] = ("magnitude", "rb", "normed_magnitude", "const", "obs")
    epochs: int = 4
    """Of training; obs has none."""
    seed: int = 0
    weights: Path = Path("weights")
    """Folder of NETWORK-DATA.safetensors, for networks that have one there."""
    runs: Path = Path("runs/sparsity")
    """Folder of run folders; `const` needs those of magnitude."""
    show: bool = False
    """Only show what is known."""
    out: Path = ROWS
    """File of rows."""
    common: dict[str, float] = field(default_factory=dict)
    """Settings of all arms, as ``sparsity_rate 0.02``."""

    def cells(self) -> Iterator[tuple[str, float, str]]:
        """Data, level, arm, the ones that matter most first."""
        for level in self.levels:
            for data in self.data:
                for arm in self.arms:
                    yield data, level, arm

    def folder(self, data: str, level: float, arm: str) -> Path:
        """Of a run."""
        words = (self.network, short(data), arm, f"{level:g}", f"{self.epochs}epochs", self.seed)
        return self.runs / "-".join(map(str, words))

    def key(self, data: str, level: float, arm: str) -> dict[str, Any]:
        """What tells rows apart."""
        epochs = 0 if arm == "obs" else self.epochs
        return {
            "network": self.network, "data": short(data), "options": data.partition("?")[2],
            "level": level, "arm": arm, "epochs": epochs, "seed": self.seed,
            "common": self.common,
        }  # fmt: skip

    def settings(self, data: str, level: float, arm: str) -> dict[str, Any]:
        """Of a run."""
        found: dict[str, Any] = {
            "model": self.network, "data": data, "target": "weights", "metric": arm,
            "seed": self.seed, "quiet": True, "run_dir": self.folder(data, level, arm),
            "finetune_epochs": 0 if arm == "obs" else self.epochs, **self.common,
        }  # fmt: skip
        place = self.weights / f"{self.network}-{short(data)}.safetensors"
        if place.is_file():
            found["checkpoint"] = place
        if arm == "const":
            return {**found, "checkpoint": self.folder(data, level, MASTER) / "pruned.safetensors"}
        return {**found, "sparsity": level}


def measured(table: Table, data: str, level: float, arm: str) -> dict[str, Any]:
    """One run, and what is in the file that it leaves."""
    start, settings = time.perf_counter(), table.settings(data, level, arm)
    folder = run(TrainConfig.of(**settings))
    report = json.loads((folder / "report.json").read_text())
    weights, layers = load_file(folder / "pruned.safetensors"), report["sparsity"]["layers"]
    zeros = {one["name"]: weights[one["name"]] == 0 for one in layers}
    found, total = (
        sum(int(z.sum()) for z in zeros.values()),
        sum(z.numel() for z in zeros.values()),
    )
    accuracy = report["accuracy"]
    row = {
        **table.key(data, level, arm), "zeros": found, "weights": total,
        "exact": abs(found - level * total) < 1, "before": accuracy["original"],
        "cut": accuracy["pruned"], "trained": accuracy["recovered"],
        "learned": report["sparsity"]["learned"], "seconds": time.perf_counter() - start,
    }  # fmt: skip
    if arm == "const":
        row["kept"] = same_zeros(zeros, load_file(settings["checkpoint"]))
    return row


def same_zeros(zeros: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    """Whether the same weights are zero, bit for bit."""
    return all(torch.equal(mask, weights[name] == 0) for name, mask in zeros.items())


def lines(known: list[dict[str, Any]]) -> Iterator[str]:
    """The table, in Markdown."""
    yield "| data | level | metric | epochs | zeros of weights | before | cut | trained | lost |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in sorted(known, key=lambda r: (r["data"], r["level"], r["arm"])):
        lost = 100 * (row["before"] - row["trained"])
        yield (
            f"| {row['data']} {row['options']} | {row['level']:g} | {row['arm']} "
            f"| {row['epochs']} "
            f"| {row['zeros']:,} of {row['weights']:,} | {100 * row['before']:.1f} "
            f"| {100 * row['cut']:.1f} | {100 * row['trained']:.1f} | {lost:+.1f} |"
        )


def main() -> None:
    """Measures what is missing, and shows the table."""
    table = tyro.cli(Table)
    known = [json.loads(line) for line in table.out.open()] if table.out.exists() else []
    for cell in () if table.show else table.cells():
        key = table.key(*cell)
        if any(key.items() <= row.items() for row in known):
            continue
        row = measured(table, *cell)
        known.append(row)
        with table.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    print(*lines(known), sep="\n")


if __name__ == "__main__":
    main()
