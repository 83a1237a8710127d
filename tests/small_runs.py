"""Runs of a second or two: their settings, results and records; stopped by signals."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amc.config.command_line import parse
from amc.config.train import TrainConfig
from amc.models.catalog import build
from amc.runtime.errors import AmcError
from amc.train import run

SMALL = dict(
    width=0.5, episodes=6, warmup_episodes=3, finetune_epochs=1, calibration_batches=4,
    reward_images=60, reward_steps=2, finalists=2, device="cpu", quiet=True,
)  # fmt: skip


NETWORK = """
import os, time
from collections import OrderedDict
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(OrderedDict(
        first=nn.Conv2d(in_channels, 24, 3, stride=2), norm=nn.BatchNorm2d(24), a=nn.ReLU(),
        second=nn.Conv2d(24, 32, 3), b=nn.ReLU(), drop=nn.Dropout(0.2),
        third=nn.Conv2d(32, 40, 1), c=nn.ReLU(), fourth=nn.Conv2d(40, 40, 1), d=nn.ReLU(),
        fifth=nn.Conv2d(40, 48, 1), e=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(), last=nn.Linear(192, num_classes)))

def reward(outcome):
    time.sleep(float(os.environ.get("PAUSE", 0)))  # or it would be over before it is stopped
    return -outcome.score.loss
"""
"""Batch norm, and dropout, which draws random numbers whenever the network is trained."""

EPISODES = 9


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def original(checkpoint: Path) -> torch.nn.Module:
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
    model.load_state_dict(load_file(checkpoint))
    return model.eval()


RESULTS = (
    "strategy.json", "plan.json", "policy.json", "policy.safetensors", "pruned.safetensors",
    "episodes.jsonl",
)  # fmt: skip

CAN_FORK = "fork" in multiprocessing.get_all_start_methods()
forking = pytest.mark.skipif(not CAN_FORK, reason="workers are forked")
with_signals = pytest.mark.skipif(os.name != "posix", reason="processes are stopped by signals")


def words(settings: dict[str, Any]) -> list[str]:
    """The settings as a command line."""
    found = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        found += [flag] if value is True else [flag, str(value)]
    return found


def resume(folder: Path, *more: str) -> Path:
    return run(parse(TrainConfig, "amc.train", ["--resume", str(folder), "--quiet", *more]))


def assert_same_results(found: Path, expected: Path) -> None:
    for name in RESULTS:
        if (expected / name).exists():
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    ours, theirs = report_of(found), report_of(expected)
    for key in ("macs", "params", "accuracy", "episodes", "layers", "mode", "target"):
        assert ours[key] == theirs[key], key


def recorded(folder: Path) -> int:
    """Episodes on record."""
    record = folder / "episodes.jsonl"
    return max(0, record.read_bytes().count(b"\n") - 1) if record.exists() else 0


def entries(folder: Path) -> list[dict[str, Any]]:
    """The episodes on record."""
    return [json.loads(x) for x in (folder / "episodes.jsonl").read_text().splitlines()[1:]]


def rewards_shown(folder: Path) -> list[float]:
    events = EventAccumulator(str(folder)).Reload()
    return [e.value for e in events.Scalars("2 search/reward")]


def listening() -> None:
    """Ctrl-C counts, also where the tests were started in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(settings: dict[str, Any], pause: float = 0.15) -> subprocess.Popen[str]:
    """The command in a session of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "amc.train", *words(settings)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PAUSE": str(pause)}, preexec_fn=listening,
    )  # fmt: skip


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends, "nothing happened"
        time.sleep(0.01)


def stopped(settings: dict[str, Any], episodes: int, by: signal.Signals) -> tuple[int, str, str]:
    """The exit status and what was printed of a run that was stopped by a signal."""
    process = started(settings)
    try:
        until(lambda: recorded(settings["run_dir"]) >= episodes, process)
        os.killpg(process.pid, by)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, out, err


def message_of(*arguments: str) -> str:
    with pytest.raises(AmcError) as refused:
        run(parse(TrainConfig, "amc.train", list(arguments)))
    assert "\n" not in str(refused.value)
    return str(refused.value)
