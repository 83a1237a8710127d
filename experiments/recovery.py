"""What brings the accuracy back after the cut, and how does it compare with torch-pruning?

    python experiments/recovery.py --ratios 0.3 0.15 --epochs 5
    python experiments/recovery.py --ratios 0.1 --methods full plain torch-pruning --seeds 0 1 2

Uniform strategies at the same MACs, the same checkpoint and the same epochs of training. Each of
our methods differs from the full one in one thing. Accuracies of the test split. What is already
in the folder is not repeated.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch_pruning
import tyro
from torch import nn

from amc.config.sections.recovery import DistillConfig, TrainingConfig
from amc.config.train import TrainConfig
from amc.data import Data, load_data
from amc.graph.tracing.trace import trace
from amc.models.pretrained import pretrained
from amc.reporting.comparison import percent
from amc.tasks.evaluate import evaluate
from amc.train import run
from amc.training.distillation import Distillation, Loss, cross_entropy
from amc.training.recipe import Recipe
from amc.training.trainer import train

OURS: dict[str, dict[str, Any]] = {
    "full": {},
    "no batch norm": {"bn_adapt": False, "finetune_epochs": 0},
    "plain": {"distill": False},
    "weak distillation": {"distill_weight": 0.25},
    "lasso": {"metric": "lasso"},
    "l2 selects": {"metric": "l2"},
    "groups": {"group_size": 3},
    "agp": {"schedule": "agp"},
    "feature maps": {"feature_weight": 1.0},
    "ema": {"ema": 0.99},
    "no clip": {"clip": 0.0},
}
"""Name -> what differs from the full method."""


@dataclass(frozen=True)
class Table:
    """What to run."""

    model: str = "resnet20"
    width: float = 1.0
    data: str = "glyphs"
    ratios: tuple[float, ...] = (0.5, 0.3, 0.15, 0.05)
    methods: tuple[str, ...] = ("full", "plain", "groups", "torch-pruning")
    """Of `OURS`, torch-pruning and torch-pruning + distillation."""
    seeds: tuple[int, ...] = (0,)
    epochs: int = 5
    folder: Path = Path("runs/recovery")

    @property
    def network(self) -> str:
        """Its name, with its width if that is not the usual one."""
        return self.model if self.width == 1 else f"{self.model}-x{self.width:g}"


def ours(table: Table, method: str, ratio: float, seed: int) -> dict[str, float]:
    """Accuracies of one of our runs, which is continued if it was stopped."""
    name = f"{table.network}-{table.data}-{method.replace(' ', '-')}-{ratio:g}-{seed}"
    place = table.folder / name
    if not (place / "report.json").exists():
        settings: dict[str, Any] = {
            "model": table.model,
            "width": table.width,
            "data": table.data,
            "mode": "uniform",
            "preserve_ratio": ratio,
            "metric": "obs",
            "finetune_epochs": table.epochs,
            "seed": seed,
            "run_dir": place,
            "quiet": True,
            **OURS[method],
        }
        started = (place / "config.json").exists()
        run(TrainConfig.of(resume=place, quiet=True) if started else TrainConfig.of(**settings))
    report = json.loads((place / "report.json").read_text())
    return {**report["accuracy"], "macs": report["macs"]["ratio"]}


def theirs(table: Table, distilled: bool, ratio: float, seed: int) -> dict[str, float]:
    """Accuracies with the channels that torch-pruning takes, trained by our recipe."""
    kind = "torch-pruning-distilled" if distilled else "torch-pruning"
    path = table.folder / f"{table.network}-{table.data}-{kind}-{ratio:g}-{seed}.json"
    if not path.exists():
        defaults, distill = TrainingConfig(), DistillConfig()
        data = load_data(table.data, seed=seed, batch_size=defaults.batch_size)
        teacher, _ = pretrained(table.model, table.width, data)
        small, macs = pruned(teacher, data, ratio)
        found = {"macs": macs, "original": evaluate(teacher, data.test).accuracy}
        found["pruned"] = evaluate(small, data.test).accuracy
        loss: Loss = cross_entropy
        if distilled:
            loss = Distillation(teacher, distill.temperature, distill.distill_weight)
        recipe = Recipe(
            table.epochs,
            defaults.rate_for(trace(teacher, (next(iter(data.test))[0],))),
            weight_decay=defaults.weight_decay,
            clip=defaults.clip,
        )
        torch.manual_seed(seed)
        found["recovered"] = evaluate(train(small, data.train, recipe, loss), data.test).accuracy
        table.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    result: dict[str, float] = json.loads(path.read_text())
    return result


def pruned(model: nn.Module, data: Data, ratio: float) -> tuple[nn.Module, float]:
    """What torch-pruning leaves, by L2 norms and one ratio for all groups; its part of MACs."""
    example = torch.zeros(1, *data.input_shape)
    most = trace(model, (example,)).macs()

    def cut(share: float) -> tuple[nn.Module, float]:
        small = copy.deepcopy(model)
        last = [m for m in small.modules() if isinstance(m, nn.Linear)][-1]
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        torch_pruning.pruner.MagnitudePruner(
            small, example, importance, pruning_ratio=share, ignored_layers=[last]
        ).step()
        return small, trace(small, (example,)).macs() / most

    low, high = 0.0, 0.95
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle)[1] > ratio else (low, middle)
    return cut(high)


def main() -> None:
    """Runs what is missing and prints the table."""
    table = tyro.cli(Table)
    print("| network, data | MACs | method | before | cut | trained | seeds |")
    print("|---|---|---|---|---|---|---|")
    for ratio in table.ratios:
        for method in table.methods:
            if method.startswith("torch-pruning"):
                distilled = method != "torch-pruning"
                found = [theirs(table, distilled, ratio, seed) for seed in table.seeds]
            else:
                found = [ours(table, method, ratio, seed) for seed in table.seeds]
            cells = [
                percent([one[key] for one in found]) for key in ("original", "pruned", "recovered")
            ]
            macs = mean(one["macs"] for one in found)
            print(
                f"| {table.network}, {table.data} | {macs:.3f} | {method} | {' | '.join(cells)} "
                f"| {len(table.seeds)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
