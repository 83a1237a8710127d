"""What is costly and never changed: made once for all workers of a session, kept in files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` has filled: by the first worker that asked, while others wait."""
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder, finished = place / "once" / name, place / "once" / f"{name}.finished"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(place / "once" / f"{name}.lock"):
        if not finished.exists():
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder
