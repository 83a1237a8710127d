"""A limit of time against a limit of MACs, in onnxruntime on one thread.

    python experiments/latency_target.py --model resnet20 --data glyphs --out latency-resnet20
    python experiments/latency_target.py --show latency-resnet20/rows.jsonl

Networks of a seed: ``latency`` has at most `--ratio` of the original's time, ``uniform`` as well,
by one ratio for all groups; ``macs`` has that part of its MACs; ``as macs`` the time that the one
before took, so that the two can be compared: the same time, searched for in time and in MACs. Each
is exported and timed beside the original,
turn by turn, anew for every pair: the median of the pairs' ratios. Accuracy is of the test split,
after the cut and after `--epochs` of training.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
import tyro
from torch import nn

import amc
from amc.config.latency import LatencyConfig
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.exporters.onnx_program import exported, opened
from amc.latency import run as table_of
from amc.measuring.stopwatch import stopwatch
from amc.models.catalog import build
from amc.models.checkpoint import load_checkpoint
from amc.models.pretrained import pretrained
from amc.objectives.latency import clock_for
from amc.runtime import feed
from amc.train import run

PAIRS = 31


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    model: str = "resnet20"
    width: float = 1.0
    data: str = "glyphs"
    checkpoint: Path | None = None
    ratio: float = 0.6
    seeds: int = 3
    episodes: int = 60
    epochs: int = 1
    arms: tuple[str, ...] = ("latency", "uniform", "macs", "as macs")
    """``as macs`` needs ``macs`` before it."""
    out: Path = Path("latency_target")
    show: tuple[Path, ...] = ()


def original(setting: Setting) -> tuple[nn.Module, Any]:
    """The network with its weights, and an image."""
    data = load_data(setting.data)
    if setting.checkpoint is None:
        model = pretrained(setting.model, setting.width, data)[0]
    else:
        given = build(
            setting.model, num_classes=data.num_classes, in_channels=data.in_channels,
            width=setting.width,
        )  # fmt: skip
        model = load_checkpoint(given, setting.checkpoint)
    images = next(iter(data.test))[0]
    return model.eval(), feed.rows(images, slice(1))


def part(model: nn.Module, small: nn.Module, sample: Any) -> float:
    """Time of the small network as part of the other's: the median of pairs, sessions anew."""
    watch = stopwatch(clock_for(1, torch.device("cpu")))
    programs = [exported(one, sample) for one in (model, small)]
    ratios = []
    for _ in range(PAIRS):
        whole, fewer = (watch(opened(program, sample)) for program in programs)
        ratios.append(fewer / whole)
    return median(ratios)


def measured(setting: Setting) -> Iterator[dict[str, Any]]:
    """Rows, one a network."""
    setting.out.mkdir(parents=True, exist_ok=True)
    model, sample = original(setting)
    table = setting.out / "table.json"
    if not table.exists():
        table_of(
            LatencyConfig.of(
                model=setting.model,
                width=setting.width,
                data=setting.data,
                output=table,
            )
        )
    for seed in range(setting.seeds):
        other = setting.ratio
        for arm in setting.arms:
            folder = setting.out / f"{arm.replace(' ', '-')}-{seed}"
            ratio = other if arm == "as macs" else setting.ratio
            limits: dict[str, Any] = {"preserve_ratio": ratio}
            if arm != "macs":
                limits |= {"objective": "latency", "latency_table": table}
            if arm == "uniform":
                limits["mode"] = "uniform"
            if not (folder / "report.json").exists():
                run(
                    TrainConfig.of(
                        model=setting.model, width=setting.width, data=setting.data, seed=seed,
                        checkpoint=setting.checkpoint, episodes=setting.episodes, metric="obs",
                        finetune_epochs=setting.epochs, run_dir=folder, **limits,
                    )
                )  # fmt: skip
            report = json.loads((folder / "report.json").read_text())
            took = part(model, amc.load_pruned(model, folder).eval(), sample)
            if arm == "macs":
                other = round(took, 4)
            yield {
                "model": setting.model, "seed": seed, "arm": arm,
                "target": limits["preserve_ratio"], "time": took,
                "macs": report["macs"]["ratio"], "cut": report["accuracy"]["pruned"],
                "trained": report["accuracy"]["recovered"],
                "original": report["accuracy"]["original"],
            }  # fmt: skip


def shown(rows: list[dict[str, Any]]) -> None:
    """A row for each way to limit: mean and spread over the seeds."""
    found = defaultdict(list)
    for row in rows:
        found[row["model"], row["arm"]].append(row)
    print("| network | limit | target | time | MACs | accuracy, cut | trained |")
    print("|---|---|---|---|---|---|---|")
    for (model, arm), some in found.items():
        cells = [spread([r[key] for r in some]) for key in ("time", "macs", "cut", "trained")]
        target = mean(r["target"] for r in some)
        print(f"| {model} | {arm} | {target:.3f} | {' | '.join(cells)} |")


def spread(values: list[float]) -> str:
    """Mean and standard deviation of parts of one, in percent."""
    apart = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{apart}"


def main() -> None:
    """Measures, or shows what was measured."""
    setting = tyro.cli(Setting)
    if setting.show:
        shown([json.loads(line) for path in setting.show for line in path.open()])
        return
    rows = []
    for row in measured(setting):
        rows.append(row)
        print(row, flush=True)
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (setting.out / "rows.jsonl").write_text(text)
    shown(rows)


if __name__ == "__main__":
    main()
