"""Is a tolerated drop kept on images that the run has never seen?

    python experiments/max_drop.py --out max-drop

Three networks, three seeds, `--max-drop 1`: what the run says that it loses, on its own held-out
validation images, and what is lost on the test split, which nothing in a run looks at.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from amc.config.train import TrainConfig
from amc.train import run

NETWORKS = (
    ("resnet20", 1.0, "digits"),
    ("mobilenet_v2", 0.25, "glyphs"),
    ("resnet20", 1.0, "glyphs"),
)


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    out: Path = Path("max-drop")
    max_drop: float = 1.0
    seeds: int = 3
    epochs: int = 1
    allocator: str = "knapsack"


def main() -> None:
    """Prints the table; a folder is gone on with."""
    setting = tyro.cli(Setting)
    print("| network | seed | MACs | images | said | test |")
    print("|---|---|---|---|---|---|")
    for model, width, data in NETWORKS:
        for seed in range(setting.seeds):
            folder = setting.out / f"{model}-{data}-{seed}"
            config = TrainConfig.of(
                model=model, width=width, data=data, seed=seed, max_drop=setting.max_drop,
                allocator=setting.allocator, finetune_epochs=setting.epochs, run_dir=folder,
                quiet=True,
            )  # fmt: skip
            if not (folder / "report.json").exists():
                started = (folder / "config.json").exists()
                run(TrainConfig.of(resume=folder, quiet=True) if started else config)
            report = json.loads((folder / "report.json").read_text())
            drop, accuracy = report["max_drop"], report["accuracy"]
            lost = 100 * (accuracy["original"] - accuracy["recovered"])
            said = f"{drop['points']:.2f} ± {drop['error']:.2f}"
            cells = (f"{model} x{width:g}, {data}", seed, report["macs"]["ratio"])
            print(f"| {' | '.join(map(str, cells))} | {drop['images']} | {said} | {lost:.2f} |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
