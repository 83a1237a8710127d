"""How a run went, kept in its folder for the report: the phases of a search, every training.

Beside ``episodes.jsonl``, which has the strategies and their rewards. All of it is made anew to
the same content when a run that was stopped goes on.
"""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from amc.measuring.machine import device_name
from amc.runtime.files import read_json, write_json

SEARCH, TRAININGS = "search.json", "trainings.json"

PACKAGES = ("torch", "numpy", "stable-baselines3", "onnxruntime", "onnx")
"""What results depend on."""


@dataclass
class Phases:
    """Which episodes an agent has walked before it began to learn, and which without noise.

    Attributes:
        warmup: episodes before it learned.
        walked: episodes up to the last time that it was asked to learn.
    """

    warmup: int = 0
    walked: int = 0
    _learns: bool = False

    def after(self, episodes: int, logged: Mapping[str, Any]) -> None:
        """So many episodes are over; what the agent has logged, with its losses if it learned."""
        self._learns |= any(name.endswith("_loss") for name in logged)
        self.warmup = self.warmup if self._learns else episodes
        self.walked = episodes

    def as_json(self, allocator: str, tried: int, limit: int, walks: int) -> dict[str, Any]:
        """What is kept; of an agent that has not learned, all was warm-up.

        Args:
            allocator: the name of an agent.
            tried: episodes in all.
            limit: episodes that might be tried.
            walks: side by side. Only with no more than these left is there a walk without noise.
        """
        if not self._learns:
            return {"agent": allocator, "warmup": tried, "without_noise": None}
        last = tried == self.walked + 1 and 0 < limit - self.walked <= walks
        without_noise = self.walked if last and self.walked else None
        return {"agent": allocator, "warmup": self.warmup, "without_noise": without_noise}


def keep_training(
    folder: Path,
    stage: int,
    again: bool,
    rate: float,
    first_epoch: int,
    scores: Sequence[float],
    **more: float,
) -> None:
    """Adds a training to those of the folder; the same one once more takes its own place.

    Args:
        folder: of the run.
        stage: its number.
        again: whether it is the second try, at a lower rate.
        rate: highest learning rate.
        first_epoch: epochs of the stages before.
        scores: on validation images: of the start, then of every epoch.
        more: of a training in which weights become zero: from which of them on a network may be
            the result (counts_from), and what it must have (least).
    """
    path = folder / TRAININGS
    known = read_json(path)["trainings"] if path.exists() else []
    others = [one for one in known if (one["stage"], one["again"]) != (stage, again)]
    finite = [score if math.isfinite(score) else None for score in scores]
    own = {
        "stage": stage, "again": again, "rate": rate, "first_epoch": first_epoch, "scores": finite,
        **more,
    }  # fmt: skip
    found = sorted([*others, own], key=lambda one: (one["stage"], one["again"]))
    write_json(path, {"trainings": found})


def made_by(device: torch.device) -> dict[str, Any]:
    """Versions and the machine, for those who want the same result once more."""
    versions = {"python": platform.python_version()}
    for name in ("amc-pruning", *PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from its folder, or not needed
            continue
    return {
        "versions": versions,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
