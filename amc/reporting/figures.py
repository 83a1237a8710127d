"""A matplotlib figure as a file: same figure, same bytes, whatever the user's own settings are."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from amc.runtime.errors import AmcError
from amc.runtime.files import write_atomically

NO_DATE: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "png": {},
    "pdf": {"CreationDate": None},
}
"""What every format needs so that the same figure gives the same bytes."""

STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "amc",
    "pdf.fonttype": 42,
    "text.hinting": "none",  # pixels must not make letters wider than computed
    "text.parse_math": False,  # names may have dollars
}
RULE = "#EBEBEB"
"""Colour of lines that are hardly there."""


def picture_format(path: Path) -> str:
    """The format that a path's ending stands for.

    Raises:
        AmcError: it is none that can be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in NO_DATE:
        allowed = ", ".join(f".{name}" for name in NO_DATE)
        raise AmcError(f"{path}: a picture's name must end in one of {allowed}")
    return kind


def write_figure(path: Path, make: Callable[[], Figure], **how: Any) -> None:
    """Writes what ``make`` draws, atomically; letters that the font lacks are boxes.

    Args:
        path: ends in .svg, .png or .pdf.
        make: called under our own style.
        how: for `Figure.savefig`.

    Raises:
        AmcError: another ending, or a path that cannot be written.
    """
    kind, buffer = picture_format(path), io.BytesIO()
    with ours():
        make().savefig(buffer, format=kind, metadata=NO_DATE[kind], **how)
    write_atomically(path, buffer.getvalue())


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Our own style inside, whatever the user's settings are."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
