"""The folder of a run: its settings, and how a run that was stopped goes on."""

import contextlib
import io
import shlex
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from amc.config.composed import Composed, as_json, flags, from_json
from amc.runs.lock import locked, move_aside
from amc.runs.trust import check_owner, code_named
from amc.runtime import distributed, launch
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json, write_json
from amc.runtime.limits import flag

MARK = "config.json"
"""The file that makes a folder a run."""

THREADS = "threads"
"""Beside the settings: how many the process had; sums of floats depend on it."""

COMMAND, DEFAULT = "command", "amc.train"
"""Beside the settings: the command that resumes the run; this one if none is named."""

RESUMING = ("amc.train", "amc.apply")
"""Commands that take ``--resume``."""

Config = TypeVar("Config", bound=Composed)

GOES_ON_FROM = (
    MARK,
    "**/episodes.jsonl",
    "**/latency.json",
    "**/training-*.safetensors",
    "**/finals/final-*/*",
    "attempts/*/*.json",
    "attempts/*/pruned.safetensors",
    "**/shared.safetensors",
)
"""What a run reads of what an earlier one has left in its folder."""


@contextlib.contextmanager
def rank_folder(config: Config) -> Iterator[Config]:
    """The settings of this rank: all but the first work quietly, in temporary folders of theirs.

    There they find what the first goes on from, so that all do the same.

    Raises:
        AmcError: the first cannot write its folder; --workers was given as well.
    """
    if distributed.world_size() == 1:
        with locked(config.folder, new=not config.flat.get("resume")):
            yield config
        return
    settings = config.flat
    if settings.get("workers", 1) > 1:
        raise AmcError(f"--workers {settings['workers']} and torchrun exclude each other")
    with contextlib.ExitStack() as stack:
        content = distributed.on_rank_zero(lambda: _held_and_packed(config, stack))
        if distributed.rank() == 0:
            yield config
            return
    with tempfile.TemporaryDirectory(prefix="amc-", ignore_cleanup_errors=True) as place:
        folder = Path(place) / "run"
        folder.mkdir()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)
        yield config.but(quiet=True, **{"resume" if settings["resume"] else "run_dir": folder})


def _held_and_packed(config: Composed, stack: contextlib.ExitStack) -> bytes:
    folder = config.folder
    stack.enter_context(locked(folder, new=not config.flat["resume"]))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        found = (path for pattern in GOES_ON_FROM for path in folder.glob(pattern))
        for path in dict.fromkeys(found):
            archive.write(path, path.relative_to(folder))
    return content.getvalue()


def write_settings(folder: Path, config: Composed, say: Callable[[str], None]) -> None:
    """Writes the configuration; an earlier run in the folder is moved aside first, and said so.

    With ``--resume`` the folder stays; only what TensorBoard shows is written anew.
    """
    if config.flat["resume"]:
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
        return
    if (folder / MARK).exists():
        say(f"the earlier run in {folder} is now {move_aside(folder)}")
    write_json(folder / MARK, {**_as_saved(config), THREADS: torch.get_num_threads()})


def _as_saved(config: Composed) -> dict[str, Any]:
    """Settings as the folder holds them; a run of `amc.train` needs no name of its command."""
    made_by = {} if config.command == DEFAULT else {COMMAND: config.command}
    return {**as_json(config), **made_by}


def effective_settings(config: Config, say: Callable[[str], None]) -> Config:
    """The settings that count: with ``--resume`` those of the run.

    Raises:
        AmcError: there is no such run, or what is to be used is of another user.
    """
    found = resumed(config, say) if config.flat.get("resume") else config
    settings = found.flat
    for name in ("policy", "plan"):
        if path := settings.get(name):
            check_owner(f"--{name}", path, settings["trust"])
    return found


def resumed(config: Config, say: Callable[[str], None]) -> Config:
    """The settings of the run that ``--resume`` names; says what of its code will run here.

    Raises:
        AmcError: there is no run, other settings were given as well, or it is of another user.
    """
    given = config.flat
    folder: Path = given["resume"]
    saved = saved_settings(f"--resume {folder}", folder)
    if (made_by := saved.pop(COMMAND, DEFAULT)) != config.command:
        how = f"go on: python -m {made_by} --resume {folder}"
        if made_by not in RESUMING:
            how = "it cannot be resumed"
        raise AmcError(f"--resume {folder}: the run is of {made_by!s:.40}; {how}")
    began = saved.pop(THREADS, None)
    if began is not None and not (type(began) is int and began > 0):
        raise AmcError(f"{folder / MARK}: {THREADS} must be a whole number, got {began!r:.40}")
    if began not in (None, torch.get_num_threads()):
        say(
            f"threads  the run began with {began}, this process has {torch.get_num_threads()}: "
            f"the last bits may differ; OMP_NUM_THREADS={began} gives the same ones"
        )
    own = {name: given[name] for name in config.anew}
    own["memory"] = given["memory"] or saved.get("memory")
    if "walks" in given:  # the search depends on it
        own["walks"] = saved.get("walks") or saved.get("workers")
    others = [name for name in given if name not in (*config.anew, "resume")]
    if words := flags(config, *others):
        allowed = ", ".join(map(flag, config.anew))
        raise AmcError(
            f"--resume {folder}: {words[0]} cannot be given, the settings are those of the run; "
            f"allowed: {allowed}"
        )
    settings = {**saved, **own, "run_dir": str(folder), "resume": str(folder)}
    found = from_json(type(config), settings, folder / MARK)
    check_owner("--resume", folder, given["trust"])
    if code := code_named(found):
        say(f"code     the settings in {folder} name code that runs now: {code}")
    return found


def saved_settings(where: str, folder: Path) -> dict[str, Any]:
    """What the settings file of a run holds.

    Args:
        where: a mistake is blamed on.
        folder: of the run.

    Raises:
        AmcError: there is none, or it holds something else.
    """
    if not (folder / MARK).is_file():
        raise AmcError(f"{where}: there is no run (no {MARK})")
    saved = read_json(folder / MARK)
    if not isinstance(saved, dict):
        raise AmcError(f"{folder / MARK}: expected an object, got {type(saved).__name__}")
    return saved


def resumable(config: Composed) -> bool:
    """Whether there is a run with these settings that ``--resume`` would go on with."""
    if resume := config.flat["resume"]:
        return bool((resume / MARK).is_file())
    with contextlib.suppress(AmcError):  # what is there is no run
        saved = read_json(config.folder / MARK)
        return isinstance(saved, dict) and {**saved, THREADS: 0} == {
            **_as_saved(config),
            THREADS: 0,
        }
    return False


def resume_command(config: Composed | None) -> str:
    """How to go on with a run that was interrupted, if it has begun."""
    if config is None or not resumable(config):
        return ""
    command = ["--resume", str(config.folder), *flags(config, "workers", "memory")]
    return f"; go on: {launch.launcher()} -m {config.command} {shlex.join(command)}"


def record(folder: Path) -> Path:
    """The file of the search's record."""
    return folder / "episodes.jsonl"
