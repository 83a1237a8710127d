"""Pictures from elsewhere bring shapes and nothing else."""

import pytest
from matplotlib.figure import Figure

from amc.reporting.html.themed import svg_of, themed
from amc.runtime.errors import AmcError

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<foreignObject><b>x</b></foreignObject>",
        '<path d="M0 0" onclick="alert(1)"/>',
        '<use xlink:href="https://example.com/x.svg#a"/>',
        '<image href="https://example.com/x.png"/>',
        '<rect style="fill: url(https://example.com/x)"/>',
        '<a href="javascript:alert(1)"><text>x</text></a>',
        '<style>@import "https://example.com"</style>',
        '<animate attributeName="href" values="javascript:alert(1)"/>',
    ],
)
def test_nothing_but_shapes(inside: str) -> None:
    found = themed(f"{HEAD}{inside}</svg>", "k", "a picture")
    for word in ("alert", "example", "script", "import", "onclick"):
        assert word not in found


def test_names_are_unique_and_lead_somewhere() -> None:
    inside = '<defs><path id="m1" d="M0 0"/><path id="m2" d="M0 0"/></defs><use xlink:href="#m1"/>'
    found = themed(f"{HEAD}{inside}</svg>", "key", "a <picture>")
    assert 'id="key-m1"' in found and 'href="#key-m1"' in found and "m2" not in found
    assert 'aria-label="a &lt;picture&gt;"' in found


def test_colours_follow_the_page() -> None:
    def make() -> Figure:
        figure = Figure()
        figure.text(0.5, 0.5, "<b> & so on", color="#0b63b8")
        return figure

    found = svg_of(make, "k", "words")
    assert "var(--accent)" in found and "&lt;b&gt; &amp; so on" in found
    assert found == svg_of(make, "k", "words")


def test_what_is_no_picture() -> None:
    for text in ("no xml", "<html></html>", ""):
        with pytest.raises(AmcError, match="damaged"):
            themed(text, "k", "x")
