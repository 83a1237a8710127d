"""What is there to be won by other widths, after training, and which cheap measure sees it?

    python experiments/headroom.py --jobs 2
    python experiments/headroom.py --show

Twelve plans that are all good ones, in every cell: the uniform one, those that spare or starve
residual streams, sensitive groups, early or late layers, and the best of a search. The table tells
for each cell how much better the best of them is after training, how much seeds differ, and for
every measure that is known before the training how much is lost by trusting it (regret@1) and how
well it sorts the better third (Spearman).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import tyro
from cells import Cell, Ready, short
from rows import Work, measured, rows
from scipy.stats import spearmanr

from amc.allocators.family import Shape, inside_only, shaped, streams_whole


def of(shape: Shape) -> Ready:
    """The plan of four numbers."""
    return lambda budget, errors: shaped(budget, errors, shape)


PLANS: dict[str, dict[str, Any] | Ready] = {
    "uniform": {"mode": "uniform"},
    "streams whole": streams_whole,
    "inside only": inside_only,
    "sensitive .25": of(Shape(exponent=0.25)),
    "sensitive .5": of(Shape(exponent=0.5)),
    "sensitive .75": of(Shape(exponent=0.75)),
    "insensitive .5": of(Shape(exponent=-0.5)),
    "streams 0.7": of(Shape(stream=0.7)),
    "streams 1.4": of(Shape(stream=1.4)),
    "late": of(Shape(depth=0.7)),
    "early": of(Shape(depth=-0.7)),
    "searched": {},
}

PROXIES = ("episode", "val_cut", "short", "errors", "log_width")
"""Known before the training: the reward of an episode, validation accuracy after the cut and after
30 steps, the sum of the reconstruction errors, the mean logarithm of the widths."""


@dataclass(frozen=True)
class Table:
    """What to compare."""

    networks: tuple[str, ...] = (
        "mobilenet_v2-x0.25", "vgg16-x0.25", "resnet56-x0.25", "mobilenet_v1-x0.25", "resnet20",
    )  # fmt: skip
    data: tuple[str, ...] = ("glyphs",)
    ratios: tuple[float, ...] = (0.1, 0.3, 0.05)
    seeds: int = 3
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
    out: Path = Path("runs/headroom.jsonl")
    common: dict[str, int] = field(default_factory=dict)
    """Settings of all plans, as ``episodes 100``."""

    def work(self) -> Work:
        """Everything that the table needs."""
        cells = [
            Cell(network, data, ratio, 1, seed)
            for seed in range(self.seeds)
            for data in self.data
            for network in self.networks
            for ratio in self.ratios
        ]
        common = {"finetune_epochs": self.epochs, "device": self.device, **self.common}
        return Work(cells, tuple(PLANS), PLANS, common, self.out, self.weights, proxies=True)


def lines(known: list[dict[str, Any]]) -> Iterator[str]:
    """The table, in Markdown: a line for every cell."""
    heads = " | ".join(f"{proxy.replace('_', ' ')}" for proxy in PROXIES)
    yield f"| network, data | MACs | uniform | best plan | best - uniform | seeds | {heads} |"
    yield "|---" * (6 + len(PROXIES)) + "|"
    cells: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for row in known:
        key = row["network"], row["data"], row["ratio"]
        cells[key].setdefault(row["arm"], []).append(row)
    for (network, data, ratio), plans in sorted(cells.items(), key=str):
        trained = {plan: 100 * mean(r["trained"] for r in found) for plan, found in plans.items()}
        noise = [stdev(100 * r["trained"] for r in f) for f in plans.values() if len(f) > 1]
        if "uniform" not in trained:
            continue
        best = max(trained, key=lambda plan: trained[plan])
        told = " | ".join(judged(plans, trained, proxy) for proxy in PROXIES)
        yield (
            f"| {network}, {short(data)} | {ratio:g} | {trained['uniform']:.1f} | {best} "
            f"| {trained[best] - trained['uniform']:+.1f} "
            f"| {f'± {mean(noise):.1f}' if noise else ''} | {told} |"
        )


def judged(plans: dict[str, list[dict[str, Any]]], trained: dict[str, float], proxy: str) -> str:
    """Regret of trusting a proxy, in points, and its Spearman correlation in the better third."""
    told = {plan: mean(r[proxy] for r in found) for plan, found in plans.items()}
    trusted = max(told, key=lambda plan: told[plan])
    third = sorted(trained, key=lambda plan: -trained[plan])[: max(4, len(trained) // 3)]
    rank = spearmanr([told[p] for p in third], [trained[p] for p in third]).statistic
    regret = max(trained.values()) - trained[trusted]
    return f"{regret:.1f}, {rank:.1f}" if np.isfinite(rank) else f"{regret:.1f}"


def main() -> None:
    """Measures what is missing, and shows the table."""
    table = tyro.cli(Table)
    if measured(table.work(), table.jobs, table.worker, table.show):
        print(*lines(rows(table.out)), sep="\n")


if __name__ == "__main__":
    main()
