"""The folder of a run: what is written there, and how the pruned network comes back."""

import contextlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from amc import ranks, weights
from amc.commandline import as_json, flags, from_json
from amc.config import TrainConfig
from amc.errors import AmcError
from amc.files import safe_name, write_atomically
from amc.graph.bake import computes_weight
from amc.graph.surgery import load_tensors, shrink
from amc.plan import Plan, load_plan, read_json, save_plan

MARK = "config.json"
"""The file that makes a folder a run."""

GOES_ON_FROM = (MARK, "episodes.jsonl", "training-*.safetensors")
"""What a run reads of what an earlier one has left in its folder."""


@contextlib.contextmanager
def own_folder(config: TrainConfig) -> Iterator[TrainConfig]:
    """The settings of this rank: all but the first work quietly, in temporary folders of theirs.

    There they find what the first goes on from, so that all do the same.

    Raises:
        AmcError: the first cannot write its folder; --workers was given as well.
    """
    if ranks.count() == 1:
        yield config
        return
    if config.workers > 1:
        raise AmcError(f"--workers {config.workers} and torchrun exclude each other")
    content = ranks.first(lambda: _packed(config.resume or claim(config)))
    if ranks.rank() == 0:
        yield config
        return
    with tempfile.TemporaryDirectory(prefix="amc-", ignore_cleanup_errors=True) as place:
        folder = Path(place) / "run"
        folder.mkdir()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)
        config = replace(config, quiet=True)
        yield replace(config, resume=folder) if config.resume else replace(config, run_dir=folder)


def _packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in (path for pattern in GOES_ON_FROM for path in folder.glob(pattern)):
            archive.write(path, path.name)
    return content.getvalue()


def claim(config: TrainConfig) -> Path:
    """The folder of the run, which exists and can be written.

    Raises:
        AmcError: it cannot be made or written.
    """
    folder = run_dir(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AmcError(f"--run-dir {folder}: cannot be written: {error.strerror}") from None
    return folder


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
        number = 1
        while (moved := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        try:
            os.rename(folder, moved)
            folder.mkdir()
        except OSError as error:
            raise AmcError(f"--run-dir {folder}: cannot be moved: {error.strerror}") from None
        say(f"the earlier run in {folder} is now {moved}")
    write_json(folder / MARK, as_json(config))


def resumed(config: TrainConfig) -> TrainConfig:
    """The settings of the run that ``--resume`` names.

    Raises:
        AmcError: there is no run, or other settings were given as well.
    """
    folder = config.resume
    assert folder is not None
    if not (folder / MARK).is_file():
        raise AmcError(f"--resume {folder}: there is no run (no {MARK})")
    saved = read_json(folder / MARK)
    if not isinstance(saved, dict):
        raise AmcError(f"{folder / MARK}: expected an object, got {type(saved).__name__}")
    own = {
        "time_limit": config.time_limit,
        "workers": config.workers,
        "memory": config.memory or saved.get("memory"),
        "walks": saved.get("walks") or saved.get("workers"),  # the search depends on it
        "quiet": config.quiet,
    }
    rest = replace(config, resume=None, time_limit=None, workers=1, memory=None, quiet=False)
    if words := flags(rest):
        raise AmcError(
            f"--resume {folder}: {words[0]} cannot be given, the settings are those of the run; "
            "allowed: --time-limit, --workers, --memory, --quiet"
        )
    settings = {**saved, **own, "run_dir": str(folder)}
    return from_json(TrainConfig, {**settings, "resume": str(folder)}, folder / MARK)


def resumable(config: TrainConfig) -> bool:
    """Whether there is a run with these settings that ``--resume`` would go on with."""
    if config.resume:
        return (config.resume / MARK).is_file()
    with contextlib.suppress(AmcError):  # what is there is no run
        return bool(read_json(run_dir(config) / MARK) == as_json(config))
    return False


def record(folder: Path) -> Path:
    """The file of the search's record."""
    return folder / "episodes.jsonl"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes readable JSON, atomically."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def save_network(folder: Path, plan: Plan, model: nn.Module, about: Mapping[str, Any]) -> None:
    """The plan and the weights: all that `load_pruned` needs.

    Args:
        folder: of the run.
        plan: that the network was cut by.
        model: the cut network.
        about: kept with the plan; under "baked" the layers that were made plain before the cut.
    """
    save_plan(folder / "plan.json", plan, about)
    write_atomically(folder / "pruned.safetensors", weights.to_bytes(model))


def load_pruned(model: nn.Module, run: Path | str) -> nn.Module:
    """The network that a run left behind.

    Args:
        model: an original network of the same class and size, with any weights; not changed.
        run: the run folder, with ``plan.json`` and ``pruned.safetensors``.

    Returns:
        A new, smaller module of the same class; its outputs equal those of the run's network.

    Raises:
        AmcError: missing or changed files, or another network.
    """
    folder = Path(run)
    plan = load_plan(folder / "plan.json")
    _check_baked(model, folder / "plan.json")
    smaller = shrink(model, plan)
    path = folder / "pruned.safetensors"
    state, own = weights.read(path), smaller.state_dict()
    for name in own:
        if name in state and own[name].shape != state[name].shape:
            raise AmcError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, the plan gives "
                f"{tuple(own[name].shape)}"
            )
    return load_tensors(smaller, state)


def _check_baked(model: nn.Module, plan: Path) -> None:
    """Refuses a network whose layers still compute the weights that the run has made plain."""
    about = read_json(plan).get("about", {})
    modules = dict(model.named_modules())
    for name in about.get("baked", []):
        if name in modules and computes_weight(modules[name]):
            raise AmcError(
                f"{plan}: {name} computes its weight in forward, the run made it plain; load into "
                "amc.bake(model, example_inputs)"
            )


def _default_name(config: TrainConfig) -> str:
    words = [config.model, config.data, config.mode]
    if config.mode == "auto" or (config.mode == "uniform" and config.channel_ratio is None):
        words.append(f"{config.preserve_ratio:g}")
    elif config.channel_ratio is not None:
        words.append(f"channels-{config.channel_ratio:g}")
    return safe_name("-".join(words))
