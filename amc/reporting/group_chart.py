"""A picture of the channel groups: layers as rows, groups as lanes beside them.

A layer's row has a dot in the lane (`group_chart_layout`) of every group that it writes or reads.
"""

import textwrap
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup, Layer
from amc.reporting.figures import RULE, write_figure
from amc.reporting.group_chart_layout import Lane, colours, lanes
from amc.runtime.wording import plain

FONTS = ["DejaVu Sans Mono", "monospace"]
INK, FAINT, FROZEN, BAR = "#222222", "#777777", "#9A9A9A", "#8FA3B8"

# Inches, but for the sizes of letters. All letters are equally wide: columns can be computed.
POINTS, TITLE = 7.0, 9.0
LETTER = 0.6021 * POINTS / 72
ROW, MARGIN, GAP, LANE, FULL_BAR = 0.185, 0.3, 0.18, 0.17, 0.75
DOT, RING = 6.0, 4.9  # points

LEGEND = (
    ("write", "writes the channels"),
    ("read", "reads them"),
    ("pass", "depthwise"),
    ("residual", "residual stream"),
    ("frozen", "stays whole"),
)
LEGEND_WIDTH = sum(0.22 + LETTER * (len(text) + 3) for _, text in LEGEND)


def draw(graph: ChannelGraph, path: Path, title: str = "") -> None:
    """Writes the picture of a graph, atomically; the same graph gives the same bytes.

    Layers are rows in execution order, with their share of the MACs. A channel group is a lane
    from the first layer that writes it to the last that reads it, in grey where it stays whole.

    Args:
        graph: to show.
        path: ends in .svg, .png or .pdf.
        title: above the picture.

    Raises:
        AmcError: another ending, or a path that cannot be written.
    """
    write_figure(path, lambda: _Sheet(graph, plain(title)).figure(), dpi=150)


class _Sheet:
    """The figure under construction; x and y are inches from its upper left corner."""

    def __init__(self, graph: ChannelGraph, title: str) -> None:
        self._graph, self._title = graph, title
        self._lanes = lanes(graph)
        self._artists: list[Artist] = []
        self._colour = colours([x for x in self._lanes if x.group.prunable])
        causes = [_cause(x.group) for x in self._lanes if not x.group.prunable]
        self._notes = {cause: f"({_letters(i)})" for i, cause in enumerate(dict.fromkeys(causes))}

    def figure(self) -> Figure:
        """The picture."""
        self._head()
        self._rows()
        for lane in self._lanes:
            self._lane(lane)
        self._labels()
        bottom = self._foot()
        width, height = self._width, bottom + MARGIN
        figure = Figure(figsize=(width, height), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for artist in self._artists:
            axes.add_artist(artist)
            artist.set_clip_on(False)
        return figure

    # Where things are.

    @cached_property
    def _stops(self) -> dict[str, float]:
        """Left ends of the columns; of the right-aligned one, its right end."""
        layers = self._graph.layers
        kind = MARGIN + LETTER * max([len(plain(x.name)) for x in layers] + [14]) + GAP
        into = kind + LETTER * max([len(x.kind) for x in layers] + [4]) + GAP
        into += LETTER * max([len(_channels(x)) for x in layers] + [8])
        bar, share = into + GAP, into + GAP + FULL_BAR + 7 * LETTER
        lane = share + 2 * GAP
        columns = max([x.column for x in self._lanes] + [0])
        return {
            "name": MARGIN, "kind": kind, "channels": into, "bar": bar, "share": share,
            "lane": lane, "label": lane + columns * LANE + GAP,
        }  # fmt: skip

    @cached_property
    def _width(self) -> float:
        texts = [sum(len(t) + 1 for t, _ in parts) for parts in self._label_parts.values()]
        labels = self._stops["label"] + LETTER * max([*texts, 10])
        title = MARGIN + TITLE / POINTS * LETTER * len(self._title)
        return max(labels, MARGIN + LEGEND_WIDTH, title) + MARGIN

    @cached_property
    def _top(self) -> float:
        """Height of the row of the network's inputs."""
        return MARGIN + (4.6 if self._title else 3.1) * ROW

    def _y(self, row: int) -> float:
        return self._top + (row + 1) * ROW

    def _x(self, lane: Lane) -> float:
        return self._stops["lane"] + lane.column * LANE

    # What is drawn.

    def _head(self) -> None:
        """Title, legend, column headers."""
        y = MARGIN
        if self._title:
            self._text(MARGIN, y, self._title, INK, size=TITLE, weight="bold")
            y += 1.5 * ROW
        x = MARGIN
        for kind, text in LEGEND:
            self._sample(kind, x + 0.06, y)
            self._text(x + 0.22, y, text, FAINT)
            x += 0.22 + LETTER * (len(text) + 3)
        y = self._top - 1.3 * ROW
        for stop, text, side in (
            ("name", "layer", "left"),
            ("kind", "kind", "left"),
            ("channels", "channels", "right"),
            ("bar", "share of MACs", "left"),
            ("label", "group size", "left"),
        ):
            self._text(self._stops[stop], y, text, FAINT, align=side)
        x = self._stops["name"]
        right = self._width - MARGIN
        self._line([x, right], [y + 0.6 * ROW] * 2, RULE, 1.0)

    def _rows(self) -> None:
        """The table at the left, and a rule from every row to its lanes."""
        graph, at = self._graph, self._stops
        total = max(graph.macs(), 1)
        most = max([x.macs for x in graph.layers] + [1])
        for i, layer in enumerate(graph.layers):
            y = self._y(i)
            self._line([at["share"] + 0.06, at["label"] - 0.06], [y, y], RULE, 0.7)
            self._text(at["name"], y, layer.name, INK, name=f"layer:{layer.name}")
            self._text(at["kind"], y, layer.kind, FAINT)
            self._text(at["channels"], y, _channels(layer), INK, align="right")
            self._box(at["bar"], y, FULL_BAR * layer.macs / most, f"bar:{layer.name}")
            share = f"{layer.macs / total:.1%}"
            self._text(at["share"], y, share, FAINT, align="right")
        ends = {end for lane in self._lanes for end in (lane.top, lane.bottom)}
        for row, text in ((-1, "network input"), (len(graph.layers), "network output")):
            if row in ends:
                self._text(at["name"], self._y(row), text, FAINT)

    def _lane(self, lane: Lane) -> None:
        group, x = lane.group, self._x(lane)
        colour, name = self._colour.get(group.name, FROZEN), group.name
        self._line(
            [x, x], [self._y(lane.top), self._y(lane.bottom)], colour,
            3.0 if group.residual else 1.4, dashed=not group.prunable, name=f"lane:{name}",
        )  # fmt: skip
        for layer, row in lane.passes.items():
            y = self._y(row)
            self._line([x - 0.05, x + 0.05], [y, y], colour, 1.4, name=f"pass:{layer}:{name}")
        for layer, row in lane.reads.items():
            self._dot(x, self._y(row), RING, "white", colour, f"read:{layer}:{name}")
        for layer, row in lane.writes.items():
            within = layer in lane.reads  # its own ring
            size, edge = (0.2 * DOT, colour) if within else (DOT, "white")
            self._dot(x, self._y(row), size, colour, edge, f"write:{layer}:{name}")

    def _labels(self) -> None:
        """Sizes of the groups, in the rows where their lanes begin."""
        for row, parts in self._label_parts.items():
            x = self._stops["label"]
            for text, group in parts:
                colour = self._colour.get(group.name, FAINT)
                self._text(x, self._y(row), text, colour, name=f"size:{group.name}")
                x += LETTER * (len(text) + 1)

    @cached_property
    def _label_parts(self) -> dict[int, list[tuple[str, ChannelGroup]]]:
        """Per row its labels, with what a group's name has that the name of the row has not."""
        names = ["input", *(layer.name for layer in self._graph.layers)]
        found: dict[int, list[tuple[str, ChannelGroup]]] = {}
        for lane in self._lanes:
            group = lane.group
            text = f"{group.size * group.width}"
            if group.width > 1:
                heads = " heads" if group.unit == "head" else ""
                text += f" ({group.size}{heads} x {group.width})"
            rest = group.name.removeprefix(names[lane.top + 1])
            if rest:
                text = f"{rest if rest[0] in ':#' else group.name} {text}"
            if not group.prunable:
                text += f" {self._notes[_cause(group)]}"
            found.setdefault(lane.top, []).append((text, group))
        return found

    def _foot(self) -> float:
        """Why groups stay whole; returns where it ends."""
        y = self._y(len(self._graph.layers)) + 1.6 * ROW
        letters = int((self._width - 2 * MARGIN) / LETTER)
        for cause, note in self._notes.items():
            for line in textwrap.wrap(f"{note} stays whole: {cause}", letters):
                self._text(MARGIN, y, line, FAINT)
                y += 0.85 * ROW
        return y

    # How it is drawn.

    def _sample(self, kind: str, x: float, y: float) -> None:
        """A sign of the legend."""
        if kind == "write":
            self._dot(x, y, DOT, INK, "white")
        elif kind == "read":
            self._dot(x, y, RING, "white", INK)
        elif kind == "pass":
            self._line([x, x], [y - 0.06, y + 0.06], INK, 1.4)
            self._line([x - 0.05, x + 0.05], [y, y], INK, 1.4)
        else:
            colour = FROZEN if kind == "frozen" else INK
            thick = 3.0 if kind == "residual" else 1.4
            self._line([x, x], [y - 0.07, y + 0.07], colour, thick, dashed=kind == "frozen")

    def _text(
        self, x: float, y: float, text: str, colour: str, *, size: float = POINTS,
        weight: str = "normal", align: Any = "left", name: str | None = None,
    ) -> None:  # fmt: skip
        self._artists.append(
            Text(
                x, y, plain(text), color=colour, fontsize=size, fontweight=weight, ha=align,
                va="center_baseline", family=FONTS, parse_math=False, gid=name and plain(name),
            )
        )  # fmt: skip

    def _line(
        self, x: list[float], y: list[float], colour: str, width: float, *,
        dashed: bool = False, name: str | None = None,
    ) -> None:  # fmt: skip
        style: Any = (0, (2.2, 1.6)) if dashed else "-"
        self._artists.append(
            Line2D(
                x,
                y,
                color=colour,
                lw=width,
                ls=style,
                solid_capstyle="butt",
                gid=name and plain(name),
            )
        )

    def _dot(
        self, x: float, y: float, size: float, fill: str, edge: str, name: str | None = None
    ) -> None:
        self._artists.append(
            Line2D(
                [x],
                [y],
                ls="",
                marker="o",
                ms=size,
                mfc=fill,
                mec=edge,
                mew=1.2,
                gid=name and plain(name),
            )
        )

    def _box(self, x: float, y: float, width: float, name: str) -> None:
        height = 0.5 * ROW
        self._artists.append(
            Rectangle((x, y - height / 2), width, height, fc=BAR, ec="none", gid=plain(name))
        )


def _channels(layer: Layer) -> str:
    return f"{layer.in_channels} → {layer.out_channels}"


def _cause(group: ChannelGroup) -> str:
    """Why a group stays whole, without the place."""
    return group.reason.split(" (")[0]


def _letters(number: int) -> str:
    """A, b ... z, aa ...: the marks of footnotes."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)
