"""The folder of a run: what is written there, and how the pruned network comes back."""

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc.runtime import distributed, weights
from amc.runs.lock import held, moved_aside
from amc.config.command_line import as_json, flags, from_json
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError
from amc.runtime.files import safe_name, write_atomically
from amc.graph.capture.bake import computes_weight
from amc.graph.shrink import load_tensors, shrink
from amc.graph.plan import Plan
from amc.graph.plan_files import load_plan, save_plan
from amc.runtime.files import read_json
from amc.runs.trust import check_owner, code_named
from amc.runtime.files import write_json

MARK = "config.json"
"""The file that makes a folder a run."""

THREADS = "threads"
"""Beside the settings: how many the process had; sums of floats depend on it."""

GOES_ON_FROM = (MARK, "episodes.jsonl", "training-*.safetensors")
"""What a run reads of what an earlier one has left in its folder."""


@contextlib.contextmanager
def own_folder(config: TrainConfig) -> Iterator[TrainConfig]:
    """The settings of this rank: all but the first work quietly, in temporary folders of theirs.

    There they find what the first goes on from, so that all do the same.

    Raises:
        AmcError: the first cannot write its folder; --workers was given as well.
    """
    if distributed.count() == 1:
        with held(run_dir(config), new=not config.resume):
            yield config
        return
    if config.workers > 1:
        raise AmcError(f"--workers {config.workers} and torchrun exclude each other")
    with contextlib.ExitStack() as stack:
        content = distributed.first(lambda: _held_and_packed(config, stack))
        if distributed.rank() == 0:
            yield config
            return
    with tempfile.TemporaryDirectory(prefix="amc-", ignore_cleanup_errors=True) as place:
        folder = Path(place) / "run"
        folder.mkdir()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)
        config = replace(config, quiet=True)
        yield replace(config, resume=folder) if config.resume else replace(config, run_dir=folder)


def _held_and_packed(config: TrainConfig, stack: contextlib.ExitStack) -> bytes:
    folder = run_dir(config)
    stack.enter_context(held(folder, new=not config.resume))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in (path for pattern in GOES_ON_FROM for path in folder.glob(pattern)):
            archive.write(path, path.name)
    return content.getvalue()


def run_dir(config: TrainConfig) -> Path:
    """The folder of the run, which need not exist."""
    return config.resume or config.run_dir or Path("runs") / _default_name(config)


def begin(folder: Path, config: TrainConfig, say: Callable[[str], None]) -> None:
    """Writes the configuration; an earlier run in the folder is moved aside first, and said so.

    With ``--resume`` the folder stays; only what TensorBoard shows is written anew.
    """
    if config.resume:
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
        return
    if (folder / MARK).exists():
        say(f"the earlier run in {folder} is now {moved_aside(folder)}")
    write_json(folder / MARK, {**as_json(config), THREADS: torch.get_num_threads()})


def settled(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """The settings that count: with ``--resume`` those of the run.

    Raises:
        AmcError: there is no such run, or what is to be used is of another user.
    """
    found = resumed(config, say) if config.resume else config
    for flag, path in (("--policy", found.policy), ("--plan", found.plan)):
        if path:
            check_owner(flag, path, found.trust)
    return found


def resumed(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """The settings of the run that ``--resume`` names; says what of its code will run here.

    Raises:
        AmcError: there is no run, other settings were given as well, or it is of another user.
    """
    folder = config.resume
    assert folder is not None
    saved = _saved(folder)
    began = saved.pop(THREADS, None)
    if began is not None and not (type(began) is int and began > 0):
        raise AmcError(f"{folder / MARK}: {THREADS} must be a whole number, got {began!r:.40}")
    if began not in (None, torch.get_num_threads()):
        say(
            f"threads  the run began with {began}, this process has {torch.get_num_threads()}: "
            f"the last bits may differ; OMP_NUM_THREADS={began} gives the same ones"
        )
    own = {
        "time_limit": config.time_limit,
        "workers": config.workers,
        "memory": config.memory or saved.get("memory"),
        "walks": saved.get("walks") or saved.get("workers"),  # the search depends on it
        "quiet": config.quiet,
        "trust": config.trust,
    }
    rest = replace(config, resume=None, time_limit=None, workers=1, memory=None, quiet=False)
    rest = replace(rest, trust=False)
    if words := flags(rest):
        raise AmcError(
            f"--resume {folder}: {words[0]} cannot be given, the settings are those of the run; "
            "allowed: --time-limit, --workers, --memory, --quiet, --trust"
        )
    settings = {**saved, **own, "run_dir": str(folder)}
    found = from_json(TrainConfig, {**settings, "resume": str(folder)}, folder / MARK)
    check_owner("--resume", folder, config.trust)
    if code := code_named(found):
        say(f"code     the settings in {folder} name code that runs now: {code}")
    return found


def _saved(folder: Path) -> dict[str, Any]:
    if not (folder / MARK).is_file():
        raise AmcError(f"--resume {folder}: there is no run (no {MARK})")
    saved = read_json(folder / MARK)
    if not isinstance(saved, dict):
        raise AmcError(f"{folder / MARK}: expected an object, got {type(saved).__name__}")
    return saved


def resumable(config: TrainConfig) -> bool:
    """Whether there is a run with these settings that ``--resume`` would go on with."""
    if config.resume:
        return (config.resume / MARK).is_file()
    with contextlib.suppress(AmcError):  # what is there is no run
        saved = read_json(run_dir(config) / MARK)
        return isinstance(saved, dict) and {**saved, THREADS: 0} == {
            **as_json(config),
            THREADS: 0,
        }
    return False


def record(folder: Path) -> Path:
    """The file of the search's record."""
    return folder / "episodes.jsonl"










def _default_name(config: TrainConfig) -> str:
    words = [config.model, config.data, config.mode]
    if config.mode == "auto" or (config.mode == "uniform" and config.channel_ratio is None):
        words.append(f"{config.preserve_ratio:g}")
    elif config.channel_ratio is not None:
        words.append(f"channels-{config.channel_ratio:g}")
    return safe_name("-".join([*words, f"seed{config.seed}"]))


