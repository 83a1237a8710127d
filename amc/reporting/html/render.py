"""Templates, and the files that they become: one page that fetches nothing and runs no scripts."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from amc.reporting.html.charts import NARROW, WIDE
from amc.reporting.html.themed import COLOURS, svg_of
from amc.runs.lock import PAGE_OURS
from amc.runtime.errors import AmcError
from amc.runtime.files import write_atomically
from amc.runtime.wording import plain

PAGE, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True)
class Chart:
    """A chart of a page.

    Attributes:
        title: above it.
        wide, narrow: the same as SVG; the narrow one is for phones.
        caption: below it.
    """

    title: str
    wide: Markup
    narrow: Markup
    caption: str = ""


def drawn(
    key: str, title: str, draw: Callable[[int], Figure], alt: str, caption: str = ""
) -> Chart:
    """A chart in both widths.

    Args:
        key: its name in the page.
        title: above it.
        draw: the figure of a width.
        alt: what those read who do not see it.
        caption: below it.
    """
    wide, narrow = (
        Markup(svg_of(partial(draw, width), f"{key}-{width}", alt)) for width in (WIDE, NARROW)
    )
    return Chart(title, wide, narrow, caption)


def rendered(template: str, **context: Any) -> str:
    """A template with everything in place; every text is escaped."""
    return _environment().get_template(template).render(mark=PAGE_OURS, colours=COLOURS, **context)


def write_page(path: Path, content: str) -> None:
    """Writes a file of ours, atomically.

    Raises:
        AmcError: the file there is of something else, or a link.
    """
    if path.is_symlink():
        raise AmcError(f"{path}: is a link; nothing is written through links")
    if path.exists() and PAGE_OURS.encode() not in path.read_bytes()[:200]:
        raise AmcError(f"{path}: is of something else and would be replaced; move it away")
    write_atomically(path, content)


@cache
def _environment() -> Environment:
    """Names come from other people's code: everything is escaped, and control characters told."""
    made = Environment(
        loader=PackageLoader("amc.reporting.html"),
        autoescape=lambda name: not (name or "").endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda one: plain(one) if type(one) is str else one,
    )
    made.filters |= {"cell": cell, "broken": broken}
    return made


def broken(text: object) -> Markup:
    """A dotted name that may go on in the next line after every dot and underscore."""
    told = str(escape(plain(str(text))))
    return Markup(re.sub(r"([._/])(?=\w)", r"\1<wbr>", told))


def cell(text: object) -> str:
    """A text within a table of GitHub's Markdown: no markup, no HTML, no new column."""
    found = plain(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\|`*_[]~#@":
        found = found.replace(sign, f"\\{sign}" if sign != "@" else "@\u200b")
    return found
