"""Writing files so that nothing that was already computed is lost."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from amc.runtime.errors import AmcError

TEMPORARY = ".*.amc-part"
"""Names of files that are not whole yet."""


class UnwritableError(AmcError):
    """A file cannot be written; what was there before is untouched."""


def write_atomically(
    path: Path, text: str | bytes, check: Callable[[Path], object] | None = None
) -> None:
    """Writes a file so that a reader sees the old content or the new one, never half of it.

    Args:
        path: of the file.
        text: its content.
        check: looks at the new file, under another name, before it takes the place of an older
            one; where it raises anything, the older one stays.

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
        if check is not None:
            check(temporary)
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


def cache_dir() -> Path:
    """The user's cache folder, `$AMC_CACHE` or `~/.cache/amc-pruning`; it may not exist yet."""
    given = os.environ.get("AMC_CACHE")
    return expanded(given) if given else Path.home() / ".cache" / "amc-pruning"


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        AmcError: the file is missing, unreadable or not JSON.
    """
    try:
        return parsed_json(path.read_bytes())
    except OSError as error:
        raise AmcError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise AmcError(f"{path}: not a JSON file ({error})") from None


def parsed_json(text: bytes, finite: bool = True) -> Any:
    """The content of a JSON text in which nothing can be meant two ways.

    Args:
        text: in UTF-8.
        finite: whether NaN and Infinity, which are no JSON, are refused.

    Raises:
        ValueError: it is none: also where a key is given twice, where it is nested beyond reason,
            and where it holds a number too large or half a character.
    """

    def number(word: str) -> float:
        value = float(word)
        if finite and not math.isfinite(value):
            raise ValueError(f"{word} is no number")
        return value

    try:
        found = json.loads(
            text.decode("utf-8"),
            parse_constant=number,
            parse_float=number,
            object_pairs_hook=_once,
        )
        if b"\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes readable JSON, atomically."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found
