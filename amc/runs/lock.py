"""A folder that one process works in: locked, no stranger's, free of what was left half.

The lock is one of the system's on a file in the folder. It ends with the process that holds it,
however that ends; the file is gone after an orderly end.
"""

import contextlib
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock, Timeout

from amc.runtime.errors import AmcError
from amc.runtime.files import TEMPORARY, read_json

LOCK = ".amc.lock"
"""Locked while a process works in the folder; holds its number."""

PATIENCE = 1.0
"""Seconds after which a lock counts as held: forked workers outlive a killed process as long."""

WRITTEN = (
    "config.json", "strategy.json", "plan.json", "policy.json", "report.json", "learned.json",
    "compare.json", "pareto.json", "prune.cfg", "report.html", "report.md",
)  # fmt: skip
"""Files that commands write into their folder, by which it is known whose they are."""

OURS = "# of a run of amc.train\n"
"""How those begin that are no JSON."""

PAGE_OURS = "<!-- of a run of amc -->"
"""In the first line of every page and every Markdown file of ours."""

BESIDE = ("episodes.jsonl", "pruned.*", "policy.safetensors", "*.jsonl", "*.svg")
"""Other files that they write there."""

WITHIN = ("", "points/*/", "stage-*/", "finals/*/", "attempts/*/", "attempts/*/finals/*/")
"""Folders within, where they write as well; this one first."""

OF_A_RUN = (
    "training-*.safetensors", "masks.safetensors", "finals", "attempts", "stage-*", "stages.json",
    "latency.json", "ranking.json", "score_curves.json", "shared.safetensors", "search.json",
    "trainings.json",
)  # fmt: skip
"""What only a run writes: a new one in its folder must not find it."""


@contextlib.contextmanager
def locked(folder: Path, new: bool = True) -> Iterator[None]:
    """The folder, made if it is missing, is this process's alone; removed again if it stays empty.

    Args:
        folder: of the run.
        new: whether files may be replaced there, so that none may be a stranger's.

    Raises:
        AmcError: it cannot be made or written, another process works there, or a file there is a
            link or of something else.
    """
    made = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    try:
        _check_files(folder, new)
        with _locked(folder):
            for left in [path for place in WITHIN for path in folder.glob(place + TEMPORARY)]:
                if left.is_file() and not left.is_symlink():  # of a process that was killed
                    left.unlink()
            yield
    finally:
        with contextlib.suppress(OSError):  # what is in use stays
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    lock = FileLock(path, timeout=PATIENCE, is_singleton=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=0.05)
    except Timeout:
        raise AmcError(
            f"--run-dir {folder}: another process{_holder(path)} works there; wait for its end, "
            "or take another folder"
        ) from None
    except OSError as error:
        raise AmcError(f"--run-dir {folder}: cannot be written: {error.strerror}") from None
    try:
        if lock.lock_counter == 1:
            _sign(path)
        yield
    finally:
        if lock.lock_counter == 1:
            path.unlink(missing_ok=True)  # still locked, so that nobody else's goes
        lock.release()


def _sign(path: Path) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
        place = os.open(path, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(place, "w") as file:
            file.write(f"{os.getpid()}\n")


def _holder(path: Path) -> str:
    try:
        number = int(path.read_text()[:20])
    except (OSError, ValueError):
        return ""
    return f" (pid {number})"


def _check_files(folder: Path, new: bool) -> None:
    """Refuses links, and files of these names that something else has written.

    Raises:
        AmcError: there is one.
    """
    try:
        names = sorted(os.listdir(folder)) if os.path.lexists(folder) else []
    except OSError as error:
        raise AmcError(f"--run-dir {folder}: cannot be written: {error.strerror}") from None
    for name in names:
        path = folder / name
        if path.is_symlink() and any(fnmatch(name, p) for p in (*WRITTEN, *BESIDE, LOCK)):
            raise AmcError(f"{path}: is a link; nothing is written through links")
        if new and name in WRITTEN and not _is_ours(path):
            raise AmcError(
                f"--run-dir {folder}: {name} there is of something else and would be replaced; "
                "take another folder"
            )


def _is_ours(path: Path) -> bool:
    """Whether a command of this project has written this file."""
    try:
        if path.suffix in (".html", ".md"):
            return PAGE_OURS.encode() in path.read_bytes()[:200]
        if path.suffix != ".json":
            return path.read_bytes().startswith(OURS.encode())
        content = read_json(path)
    except (AmcError, OSError):
        return False
    if not isinstance(content, dict):
        return False
    marks = {"preserve_ratio", "settings", "format", "format_version"} & set(content)
    return bool(marks) or {"macs", "params", "layers"} <= set(content)


def move_aside(folder: Path) -> Path:
    """Moves what an earlier run has left in its folder into a new one beside it.

    What is not of a run stays. The settings go last: until then it is an earlier run.

    Raises:
        AmcError: it cannot be moved.
    """
    place = folder.resolve()
    number = 1
    while os.path.lexists(moved := place.with_name(f"{place.name}.{number}")):
        number += 1
    patterns = (*BESIDE, *OF_A_RUN, "events.out.tfevents.*", *reversed(WRITTEN))
    try:
        moved.mkdir()
        for path in dict.fromkeys(path for pattern in patterns for path in place.glob(pattern)):
            os.rename(path, moved / path.name)
    except OSError as error:
        raise AmcError(f"--run-dir {folder}: cannot be moved: {error.strerror}") from None
    return folder.with_name(moved.name) if folder.name else moved
