"""matplotlib's figures within a page: colours follow the page, nothing but shapes comes in.

Every colour of a figure that the page knows becomes a CSS variable, so that one SVG serves light,
dark and paper. Elements and attributes that are not on a list are dropped: a picture that was read
from a folder brings no scripts and no addresses.
"""

import io
import re
import warnings
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.figure import Figure

from amc.reporting.figures import STYLE
from amc.runtime.errors import AmcError

COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14181d"),
    "panel": ("#f5f7f9", "#1c2228"),
    "ink": ("#1c2127", "#e7ebf0"),
    "soft": ("#56606b", "#a3aeba"),
    "faint": ("#8a949e", "#7b8793"),
    "rule": ("#dde2e7", "#323a43"),
    "accent": ("#0b63b8", "#6db3f8"),
    "gone": ("#c9d6e3", "#3a4756"),
    "good": ("#1a7346", "#5ccb8e"),
    "warm": ("#a85400", "#f0a558"),
    "bad": ("#b3261e", "#ff8f85"),
    "s1": ("#0072b2", "#56b4f0"),
    "s2": ("#d55e00", "#ff8c42"),
    "s3": ("#009e73", "#35c99b"),
    "s4": ("#aa4499", "#e07fd0"),
    "s5": ("#b58900", "#dcb13c"),
}
"""Name of a CSS variable -> its colour on light and on dark paper."""

AS_DRAWN = {
    **{light: name for name, (light, _) in COLOURS.items()},
    "#000000": "ink",
    "#222222": "ink",
    "#777777": "soft",
    "#7f7f7f": "faint",
    "#9a9a9a": "faint",
    "#8fa3b8": "faint",
    "#ebebeb": "rule",
    "#b0b0b0": "rule",
    "#1f77b4": "s1",
    "#ff7f0e": "s2",
    "#2ca02c": "s3",
    "#d62728": "bad",
    "#9467bd": "s4",
    "#8c564b": "s5",
}
"""Colours that figures are drawn in -> the variable that they become."""

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
SHAPES = frozenset(
    "svg g path rect circle line polyline polygon text tspan defs use image".split()
)
SHAPES |= {"clipPath"}
HOW = frozenset(
    """
    d x y x1 y1 x2 y2 cx cy r width height points transform style id viewBox clip-path href
    preserveAspectRatio
""".split()
)
FONT = re.compile(r"font: (?:(bold|\d{3}) )?([\d.]+)px [^;]*")


def svg_of(make: Callable[[], Figure], key: str, alt: str) -> str:
    """The picture that ``make`` draws, for a page; the background is the page's.

    Args:
        make: called under our own style.
        key: before all names in it, which must be unique in a page.
        alt: what those read who do not see it.
    """
    buffer = io.BytesIO()
    own = {**STYLE, "text.color": COLOURS["ink"][0], "axes.edgecolor": COLOURS["faint"][0]}
    with matplotlib.style.context(["default", own]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        make().savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return themed(buffer.getvalue().decode(), key, alt)


def themed(text: str, key: str, alt: str, natural: bool = False) -> str:
    """An SVG file as a part of a page.

    Args:
        text: of the file.
        key: before all names in it.
        alt: what those read who do not see it.
        natural: whether it has a size, a point as a pixel and a half; otherwise it has none.

    Raises:
        AmcError: it is none.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise AmcError(f"a picture is damaged: {error}") from None
    used = set(
        re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for v in e.attrib.values()))
    )
    clean = _clean(root, key, used)
    if clean is None:
        raise AmcError("a picture is damaged: no svg in it")
    for name in ("width", "height"):
        size = clean.attrib.pop(name, "")
        if natural and re.fullmatch(r"[\d.]+pt", size):
            clean.set(name, f"{1.5 * float(size.removesuffix('pt')):g}")
    clean.set("role", "img")
    clean.set("aria-label", alt)
    return ElementTree.tostring(clean, encoding="unicode")


def _clean(element: ElementTree.Element, key: str, used: set[str]) -> ElementTree.Element | None:
    tag = element.tag.removeprefix(SVG) if isinstance(element.tag, str) else ""
    if tag not in SHAPES:
        return None
    made = ElementTree.Element(tag)
    for name, value in element.attrib.items():
        name = "href" if name == LINK else name
        if name == "id" and value in used:
            made.set(name, f"{key}-{value}")
        elif name in HOW - {"id"} and (value := _value(name, value, key)):
            made.set(name, value)
    made.text, made.tail = (element.text if tag in ("text", "tspan") else None), None
    for child in element:
        if (inner := _clean(child, key, used)) is not None:
            made.append(inner)
    return made


def _value(name: str, value: str, key: str) -> str:
    """A value that points to nothing outside; empty if there is none."""
    if name == "href":
        if value.startswith("data:image/png;base64,"):
            return value
        return f"#{key}-{value[1:]}" if value.startswith("#") else ""
    value = re.sub(r"url\(#", f"url(#{key}-", value)
    if re.search(r"url\((?!#)|@|expression|javascript", value):
        return ""
    if name == "style":
        value = FONT.sub(
            lambda m: f"font-size: {m[2]}px" + ("; font-weight: 600" if m[1] else ""), value
        )
        value = re.sub(r"#[0-9a-fA-F]{6}\b", lambda m: _variable(m[0]), value)
    return value


def _variable(colour: str) -> str:
    name = AS_DRAWN.get(colour.lower())
    return f"var(--{name})" if name else colour
