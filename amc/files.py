"""Writing files so that nothing that was already computed is lost."""

import os
import tempfile
from pathlib import Path
from typing import Any, get_args, get_type_hints

from amc.errors import AmcError

TEMPORARY = ".*.amc-part"
"""Names of files that are not whole yet."""


class UnwritableError(AmcError):
    """A file cannot be written; what was there before is untouched."""


def write_atomically(path: Path, text: str | bytes) -> None:
    """Writes a file so that a reader sees the old content or the new one, never half of it.

    Raises:
        UnwritableError: the folder cannot be written, the disk is full; the old file is untouched.
    """
    data = text.encode() if isinstance(text, str) else text
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY[2:], delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UnwritableError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def append(path: Path, line: str) -> None:
    """Adds a line to a file, which is no link.

    Raises:
        UnwritableError: it is one, or the disk is full.
    """
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(path, flags, 0o644), "w", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UnwritableError(f"{path}: cannot be written: {error.strerror or error}") from None


def expanded(text: str) -> Path:
    """The path, with the folder of a user in place of ``~`` or ``~user``.

    Raises:
        AmcError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise AmcError(f"{text}: there is no such user") from None


def as_paths(settings: Any) -> None:
    """Makes paths of the settings that are to be paths, where they were given as text.

    Args:
        settings: a frozen dataclass that is being made.

    Raises:
        AmcError: one is neither.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name, None)
        if Path not in (hint, *get_args(hint)) or value is None:
            continue
        if not isinstance(value, str | os.PathLike):
            flag = "--" + name.replace("_", "-")
            raise AmcError(f"{flag} must be a path, got {value!r}")
        object.__setattr__(settings, name, expanded(os.fspath(value)))


def safe_name(text: str) -> str:
    """The text with everything replaced that does not belong into the name of a file."""
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in text)
