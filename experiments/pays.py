"""Is a search worth anything after training? Uniform and searched widths on five networks.

    python experiments/pays.py --jobs 2
    python experiments/pays.py --arms uniform searched evolution --ratios 0.15 --data idx:/path
    python experiments/pays.py --show

Every arm has the same network, budget, batches and epochs of training. Accuracies are of the test
split, in percent: after the cut, and after training; mean and standard deviation over the seeds. A
difference is of the same seeds, with its standard error. What is in the file is not repeated, so
that a stopped table goes on.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro
from cells import TORCH_PRUNING, Cell, Ready, short
from rows import Work, measured, rows

ARMS: dict[str, dict[str, Any] | Ready] = {
    "uniform": {"mode": "uniform"},
    "searched": {},
    **{name: {"allocator": name} for name in ("td3", "sac", "evolution", "screened", "random")},
}
"""Name -> settings that it differs in; more can follow it: ``searched+episodes=400``."""


ROWS = Path(__file__).with_name("pays.jsonl")
"""What the tables of the documentation show."""


@dataclass(frozen=True)
class Table:
    """What to compare."""

    networks: tuple[str, ...] = (
        "resnet20", "resnet56-x0.25", "vgg16-x0.25", "mobilenet_v1-x0.25", "mobilenet_v2-x0.25",
    )  # fmt: skip
    data: tuple[str, ...] = ("glyphs",)
    ratios: tuple[float, ...] = (0.15, 0.3, 0.05)
    multiples: tuple[int, ...] = (1, 8)
    seeds: int = 3
    arms: tuple[str, ...] = ("uniform", "searched", "torch-pruning")
    """Of `ARMS` and torch-pruning, with settings: ``searched+learning_rate=0.08``."""
    epochs: int = 5
    device: str = "auto"
    weights: Path = Path("weights")
    """Folder of NETWORK-DATA.safetensors, for networks that are not shipped."""
    jobs: int = 1
    """Processes side by side."""
    worker: int | None = None
    """Which of them this is; for inner use."""
    show: bool = False
    """Only show what is known."""
    out: Path = ROWS
    """File of rows."""
    common: dict[str, int] = field(default_factory=dict)
    """Settings of all arms, as ``episodes 100``."""

    def work(self) -> Work:
        """Everything that the table needs."""
        cells = [
            Cell(network, data, ratio, multiple, seed)
            for data in self.data
            for seed in range(self.seeds)
            for network in self.networks
            for multiple in self.multiples
            for ratio in self.ratios
        ]
        common = {"finetune_epochs": self.epochs, "device": self.device, **self.common}
        return Work(cells, self.arms, ARMS, common, self.out, self.weights)


def lines(known: list[dict[str, Any]], table: Table) -> Iterator[str]:
    """The table, in Markdown: a line for every cell and arm, beside the first arm of the cell."""
    yield "| network, data | MACs | multiple | arm | cut | trained | more than uniform | seeds |"
    yield "|---|---|---|---|---|---|---|---|"
    cells: dict[tuple[Any, ...], dict[str, dict[int, dict[str, Any]]]] = defaultdict(dict)
    for row in known:
        key = row["network"], row["data"], row["ratio"], row["multiple"]
        cells[key].setdefault(row["arm"], {})[row["seed"]] = row
    for (network, data, ratio, multiple), arms in sorted(cells.items(), key=str):
        for arm, found in arms.items():
            cut, trained = (
                spread([100 * r[key] for r in found.values()]) for key in ("cut", "trained")
            )
            more = difference(found, arms.get(table.arms[0], {})) if arm != table.arms[0] else ""
            yield (
                f"| {network}, {short(data)} | {ratio:g} | {multiple} | {arm} | {cut} "
                f"| {trained} | {more} | {len(found)} |"
            )


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return f"{mean(values):.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def difference(one: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> str:
    """Mean difference over the seeds that both have, and its standard error."""
    apart = [100 * (one[s]["trained"] - other[s]["trained"]) for s in one.keys() & other.keys()]
    if not apart:
        return ""
    error = f" ± {stdev(apart) / math.sqrt(len(apart)):.1f}" if len(apart) > 1 else ""
    return f"{mean(apart):+.1f}{error}"


def main() -> None:
    """Measures what is missing, and shows the table."""
    table = tyro.cli(Table)
    if unknown := [a for a in table.arms if a.partition("+")[0] not in {**ARMS, **TORCH_PRUNING}]:
        raise SystemExit(f"no arm {unknown[0]!r}; allowed: {', '.join({**ARMS, **TORCH_PRUNING})}")
    if measured(table.work(), table.jobs, table.worker, table.show):
        print(*lines(rows(table.out), table), sep="\n")


if __name__ == "__main__":
    main()
