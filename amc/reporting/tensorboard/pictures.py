"""Pictures for TensorBoard, as pixels: bars before and after, a heat map over episodes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amc.reporting.figures import RULE, ours
from amc.runtime.wording import plain

GONE, KEPT, INK, ARROW = "#D9DEE5", "#2F6DB5", "#222222", "#C2410C"

WIDTH, HEIGHT, DPI = 6.4, 4.2, 120
"""Inches of a picture, and points of a screen for each: the shape of TensorBoard's cards."""

HEAD = 0.72
"""Inches above the axes, for a title of two lines that can be read on a card."""

LETTER = 0.0082
"""Inches that a letter is wide, per point of its size."""

LONGEST = 30
"""Letters of a name; longer ones lose their middle."""

Pixels = npt.NDArray[np.uint8]
"""[H, W, 4]: red, green, blue, opacity."""


def bars(names: Sequence[str], before: Sequence[int], after: Sequence[int], title: str) -> Pixels:
    """Channels of every layer or group: all of them, and those that stay."""

    def draw() -> Figure:
        size = _size(len(names), 5.6)
        foot = 0.25 + LETTER * size * max(map(len, _shown(names)), default=1)
        figure, axes = _page(title, (0.6, 0.15), foot)
        places = range(len(names))
        axes.bar(places, before, color=GONE, width=0.76, label="removed")
        axes.bar(places, after, color=KEPT, width=0.76, label="kept")
        if size > FEW:
            for place, kept in enumerate(after):
                axes.text(place, kept, f"{kept}", ha="center", va="bottom", fontsize=size - 1)
        axes.set_xticks(places, _shown(names), rotation=90, fontsize=size)
        axes.set_xlim(-0.7, len(names) - 0.3)
        axes.set_ylabel("channels", fontsize=8)
        axes.grid(axis="y", color=RULE)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        return figure

    return _drawn(draw)


def heat_map(
    names: Sequence[str], kept: Sequence[Sequence[float]], best: int, title: str
) -> Pixels:
    """The part of every group that each strategy keeps; an arrow shows the best.

    Args:
        names: of the groups.
        kept: [E, G] parts in [0, 1], in the order in which they were tried.
        best: which of them is.
        title: above it.
    """

    def draw() -> Figure:
        size = _size(len(names), 3.0)
        left = 0.2 + LETTER * size * max(map(len, _shown(names)), default=1)
        figure, axes = _page(title, (left, 0.85), 0.5)
        image = axes.imshow(
            np.asarray(kept, dtype=np.float64).T, aspect="auto", interpolation="nearest",
            vmin=0, vmax=1, cmap="viridis", origin="upper",
            extent=(0.5, len(kept) + 0.5, len(names) - 0.5, -0.5),
        )  # fmt: skip
        axes.set_yticks(range(len(names)), _shown(names), fontsize=size)
        axes.annotate(
            "", (best + 1, 1.0), (best + 1, 1.07), xycoords=("data", "axes fraction"),
            annotation_clip=False, arrowprops={"arrowstyle": "-|>", "color": ARROW, "lw": 1.6},
        )  # fmt: skip
        axes.set_xlabel("strategies, in the order in which they were tried", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        where = (1 - 0.68 / WIDTH, 0.5 / HEIGHT, 0.14 / WIDTH, 1 - (HEAD + 0.5) / HEIGHT)
        scale = figure.colorbar(image, cax=figure.add_axes(where))
        scale.set_label("part that is kept", fontsize=8)
        scale.ax.tick_params(labelsize=7)
        return figure

    return _drawn(draw)


def sums(parts: Mapping[str, float], title: str) -> Pixels:
    """The part of each cost that is left."""

    def draw() -> Figure:
        left = 0.2 + LETTER * 10 * max(map(len, parts), default=1)
        figure, axes = _page(title, (left, 0.75), 0.3)
        places, ratios = range(len(parts)), list(parts.values())
        most = max([1.0, *ratios])
        axes.barh(places, [1.0] * len(parts), color=GONE, height=0.62)
        axes.barh(places, ratios, color=KEPT, height=0.62)
        for place, ratio in enumerate(ratios):
            axes.text(
                max(1.0, ratio) + 0.02 * most, place, f"{ratio:.0%}", va="center", fontsize=12
            )
        axes.set_yticks(places, list(parts), fontsize=10)
        axes.set_ylim(len(parts) - 0.5, -0.5)
        axes.set_xlim(0, most)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return figure

    return _drawn(draw)


FEW = 7.4
"""Size of names, in points, from which on there is room for numbers as well."""


def _page(title: str, sides: tuple[float, float], foot: float) -> tuple[Figure, Axes]:
    """A figure with axes; inches that stay free on the left and right, and below."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    left, right = sides
    axes = figure.add_axes(
        (left / WIDTH, foot / HEIGHT, 1 - (left + right) / WIDTH, 1 - (foot + HEAD) / HEIGHT)
    )
    axes.tick_params(length=0, labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    figure.text(
        0.1 / WIDTH, 1 - 0.09 / HEIGHT, title, va="top", fontsize=12, weight="bold", color=INK
    )
    return figure, axes


def _size(count: int, inches: float) -> float:
    """Points of names so that so many fit side by side."""
    return min(7.5, max(2.5, 60 * inches / max(1, count)))


def _shown(names: Sequence[str]) -> list[str]:
    return [_shortened(plain(name)) for name in names]


def _shortened(name: str) -> str:
    if len(name) <= LONGEST:
        return name
    half = (LONGEST - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _drawn(make: Callable[[], Figure]) -> Pixels:
    with ours():
        canvas = FigureCanvasAgg(make())
        canvas.draw()  # type: ignore[no-untyped-call]
        found: Pixels = np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return found
