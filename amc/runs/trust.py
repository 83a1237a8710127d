"""Run folders name code: whose they are, and what of it will run."""

import os
from pathlib import Path

from amc.config.composed import Composed
from amc.runtime.errors import AmcError
from amc.runtime.names import WITH_PATH

CODE = (
    "model", "data", "task", "target", "objective", "reward", "metric", "allocator", "schedule",
    "finetune",
)  # fmt: skip
"""Settings that may be module:function or path/to/file.py:function."""


def code_named(config: Composed) -> str:
    """The code of the user's that these settings run, for people; empty if there is none."""
    named = []
    for name in CODE:
        value = config.flat.get(name)
        if value and ":" in value and not (name == "data" and value.split(":")[0] in WITH_PATH):
            named.append(f"--{name} {value}")
    return ", ".join(named)


def check_owner(flag: str, folder: Path, trust: bool) -> None:
    """Refuses what another user can have written, unless it is trusted.

    Args:
        flag: that names the folder.
        folder: or a file.
        trust: whether --trust was given.

    Raises:
        AmcError: it, or a settings file in it, belongs to somebody else.
    """
    if trust or not hasattr(os, "getuid"):
        return
    for path in (folder, folder / "config.json"):
        if path.exists() and (owner := path.stat().st_uid) != os.getuid():
            raise AmcError(
                f"{flag} {folder}: belongs to another user ({_name(owner)}), who decides what "
                "code runs here; --trust goes on all the same"
            )


def _name(number: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return f"uid {number}"
