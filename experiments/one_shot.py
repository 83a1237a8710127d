"""What are zeros worth that come at once, without any training? Optimal brain surgeon, magnitude.

    python experiments/one_shot.py --out one_shot.jsonl
    python experiments/one_shot.py --networks resnet20 --levels 0.7 0.8 --arms "obs search"
    python experiments/one_shot.py --show

Weights of the whole network become zero; batch norm is adapted on the same images in all arms. An
arm is a metric and who shares the zeros out to layers: one threshold (global), the same part in
each (uniform), an agent (search). Accuracies are of the test split. What is in the file is not
measured again, so that a stopped table goes on.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from amc.config.train import TrainConfig
from amc.data import Data, load_data
from amc.gradual.one_shot import layouts_of, one_shot, originals_of, worth
from amc.gradual.share_levels import share_levels
from amc.graph.channel_graph import ChannelGraph
from amc.graph.shrink import duplicate, tensors
from amc.graph.tracing.trace import trace
from amc.models.catalog import build
from amc.models.checkpoint import load_checkpoint
from amc.models.pretrained import pretrained
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.runs.terminal import Terminal
from amc.sparsity.magnitude import magnitude
from amc.sparsity.masking import Zeros
from amc.sparsity.patterns import Pattern
from amc.sparsity.select import chosen
from amc.steps.job import Job
from amc.tasks.evaluate import evaluate

ROWS = Path(__file__).with_name("one_shot.jsonl")
"""What the tables of the documentation show."""

WIDTHS = {"vgg16": 0.25, "mobilenet_v1": 0.25, "mobilenet_v2": 0.25}
"""Of networks that are not taken as wide as they are."""

ARMS = ("magnitude global", "magnitude uniform", "obs global", "obs uniform")


@dataclass(frozen=True)
class Table:
    """What to compare."""

    networks: tuple[str, ...] = ("resnet20", "vgg16", "mobilenet_v2")
    data: str = "glyphs"
    levels: tuple[str, ...] = ("0.8", "0.7", "0.5", "2:4")
    """Parts of the weights, or patterns that fix them."""
    arms: tuple[str, ...] = ARMS
    seeds: tuple[int, ...] = (0,)
    episodes: int = 100
    """Of a search."""
    checkpoint: Path | None = None
    """Weights of the network, where it is one; bundled ones otherwise."""
    show: bool = False
    """Only show what is known."""
    out: Path = ROWS
    """File of rows."""

    def cells(self) -> Iterator[dict[str, Any]]:
        """Every row, by what it depends on."""
        for network in self.networks:
            for level in self.levels:
                for arm in self.arms:
                    for seed in self.seeds:
                        if ":" in level and not arm.endswith("uniform"):
                            continue  # every layer has the same part
                        cell: dict[str, Any] = {"network": network, "data": self.data}
                        cell |= {"level": level, "arm": arm, "seed": seed}
                        yield cell | ({"episodes": self.episodes} if "search" in arm else {})


@dataclass
class Bench:
    """A network, and what all arms on it share."""

    name: str
    data: Data
    checkpoint: Path | None
    seed: int
    folder: Path = field(default=Path())

    @cached_property
    def job(self) -> Job:
        """Calibration as a run has it by default."""
        return Job(self.data, torch.device("cpu"), Terminal(quiet=True), seed=self.seed)

    @cached_property
    def model(self) -> nn.Module:
        """With its weights."""
        width = WIDTHS.get(self.name, 1.0)
        if self.checkpoint is None:
            return pretrained(self.name, width, self.data)[0].eval()
        model = build(
            self.name,
            num_classes=self.data.num_classes,
            in_channels=self.data.in_channels,
            width=width,
        )
        load_checkpoint(model, self.checkpoint)
        return model.eval()

    @cached_property
    def graph(self) -> ChannelGraph:
        """Of the network."""
        example = self.job.example
        return trace(self.model, example.args, example.kwargs, example.outputs)

    @cached_property
    def names(self) -> list[str]:
        """The weights of all its layers."""
        return list(dict.fromkeys(layer.weight for layer in self.graph.layers))

    @cached_property
    def originals(self) -> OriginalOutputs:
        """What its layers compute."""
        return originals_of(self.job, self.model, self.graph, self.names)

    @cached_property
    def worth(self) -> dict[str, Tensor]:
        """What each weight is worth."""
        return worth(self.job, self.model, self.graph, self.names)

    @cached_property
    def before(self) -> float:
        """Accuracy without zeros."""
        return self.tested(self.model)

    def tested(self, model: nn.Module) -> float:
        """Accuracy on the test split."""
        return evaluate(model, self.data.test).accuracy

    def zeros(self, level: str, scope: str) -> Zeros:
        """What is to become zero."""
        pattern = Pattern.parse(level if ":" in level else "")
        target = pattern.level or float(level)
        return Zeros(layouts_of(self.graph, self.model, self.names), target, pattern, scope)

    def masked(self, zeros: Zeros) -> tuple[nn.Module, Mapping[str, Tensor]]:
        """By magnitude, batch norm adapted."""
        model = duplicate(self.model)
        held = tensors(model)
        masks = zeros.masks({name: magnitude(held[name]) for name in self.names}, zeros.target)
        with torch.no_grad():
            for name, mask in masks.items():
                held[name].mul_(mask)
        return adapt_batchnorm(model, self.job.images), masks

    def solved(self, zeros: Zeros, searched: int | None) -> tuple[nn.Module, Mapping[str, Tensor]]:
        """By optimal brain surgeon."""
        level: float | Mapping[str, float] = zeros.target
        if searched is not None:
            level = self.searched(zeros, searched)
        elif zeros.scope == "global":
            masks = chosen(self.worth, zeros.target, zeros.pattern, layouts=zeros.layouts)
            level = {name: 1 - float(mask.double().mean()) for name, mask in masks.items()}
        found = one_shot(
            self.job, self.model, self.graph, self.names, level, zeros.pattern, zeros.scope,
            self.originals,
        )  # fmt: skip
        return found.network, found.masks

    def searched(self, zeros: Zeros, episodes: int) -> dict[str, float]:
        """Levels that an agent finds."""
        with TemporaryDirectory() as folder:
            config = TrainConfig.of(
                target="weights", sparsity=zeros.target, sparsity_allocation="search",
                episodes=episodes, seed=self.seed, run_dir=Path(folder),
            )  # fmt: skip
            return share_levels(self.job, self.model, self.graph, zeros, config, Path(folder))


def measured(bench: Bench, cell: Mapping[str, Any]) -> dict[str, Any]:
    """One row."""
    metric, scope = cell["arm"].split()
    zeros = bench.zeros(cell["level"], "uniform" if scope == "uniform" else "global")
    before, start = bench.before, time.process_time()
    if metric == "magnitude":
        network, masks = bench.masked(zeros)
    else:
        network, masks = bench.solved(zeros, cell.get("episodes"))
    spent = time.process_time() - start
    return {
        **cell, "before": before, "accuracy": bench.tested(network),
        "zeros": sum(int((~mask).sum()) for mask in masks.values()),
        "weights": sum(mask.numel() for mask in masks.values()), "cpu_s": round(spent, 1),
    }  # fmt: skip


def lines(known: list[dict[str, Any]]) -> Iterator[str]:
    """The table, in Markdown: a row for each network and level, a column for each arm."""
    arms = list(dict.fromkeys(row["arm"] for row in known))
    yield f"| network | before | zeros | {' | '.join(arms)} |"
    yield "|---|---|---|" + "---|" * len(arms)
    for network, level in dict.fromkeys((r["network"], r["level"]) for r in known):
        rows = [r for r in known if (r["network"], r["level"]) == (network, level)]
        cells = []
        for arm in arms:
            found = [f"{100 * r['accuracy']:.1f}" for r in rows if r["arm"] == arm]
            cells.append(", ".join(found))
        before = f"{100 * rows[0]['before']:.1f}"
        yield f"| {network} | {before} | {level} | {' | '.join(cells)} |"


def main() -> None:
    """Measures what is missing, and shows the table."""
    table = tyro.cli(Table)
    known = [json.loads(line) for line in table.out.open()] if table.out.exists() else []
    benches: dict[tuple[str, int], Bench] = {}
    for cell in () if table.show else table.cells():
        if any(cell.items() <= row.items() for row in known):
            continue
        key = cell["network"], cell["seed"]
        if key not in benches:
            benches.clear()
            data = load_data(table.data)
            benches[key] = Bench(cell["network"], data, table.checkpoint, cell["seed"])
        row = measured(benches[key], cell)
        known.append(row)
        with table.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    print(*lines(known), sep="\n")


if __name__ == "__main__":
    main()
