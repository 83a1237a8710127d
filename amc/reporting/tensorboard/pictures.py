"""Pictures for TensorBoard, as pixels: bars before and after, a heat map over episodes."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amc.reporting.figures import RULE, ours
from amc.runtime.wording import plain

GONE, KEPT, INK = "#D9DEE5", "#2F6DB5", "#222222"

ROW, WIDTH, DPI = 0.19, 7.2, 110
"""Inches of a row and of a picture, and points of a screen for each."""

HEAD, FOOT = 0.62, 0.5
"""Inches above the rows for the title, and below them for the axis."""

LONGEST = 34
"""Letters of a name; longer ones lose their middle."""


Pixels = npt.NDArray[np.uint8]
"""[H, W, 4]: red, green, blue, opacity."""


def bars(names: Sequence[str], before: Sequence[int], after: Sequence[int], title: str) -> Pixels:
    """Channels of every layer or group: all of them, and those that stay."""

    def draw() -> Figure:
        figure, axes = _page(names, title)
        places = range(len(names))
        axes.barh(places, before, color=GONE, height=0.74, label="removed")
        axes.barh(places, after, color=KEPT, height=0.74, label="kept")
        most = max(before, default=1)
        for place, (full, kept) in enumerate(zip(before, after, strict=True)):
            said = f"{full}" if full == kept else f"{full} → {kept}"
            axes.text(full + 0.012 * most, place, said, va="center", fontsize=7, color=INK)
        axes.set_xlim(0, 1.16 * most)
        axes.set_xlabel("channels", fontsize=8)
        axes.grid(axis="x", color=RULE)
        axes.legend(
            frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1),
            borderaxespad=0.1,
        )  # fmt: skip
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
        figure, axes = _page(names, title, room=0.9)
        image = axes.imshow(
            np.asarray(kept, dtype=np.float64).T, aspect="auto", interpolation="nearest",
            vmin=0, vmax=1, cmap="viridis", origin="upper",
            extent=(0.5, len(kept) + 0.5, len(names) - 0.5, -0.5),
        )  # fmt: skip
        axes.annotate(
            "", (best + 1, -0.5), (best + 1, -1.5), annotation_clip=False,
            arrowprops={"arrowstyle": "-|>", "color": "#C2410C", "lw": 1.6},
        )  # fmt: skip
        axes.set_xlabel("strategy, in the order in which they were tried", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        width, height = figure.get_size_inches()
        side = figure.add_axes((1 - 0.72 / width, FOOT / height, 0.14 / width, _part(height)))
        scale = figure.colorbar(image, cax=side)
        scale.set_label("part that is kept", fontsize=8)
        scale.ax.tick_params(labelsize=7)
        return figure

    return _drawn(draw)


def _page(names: Sequence[str], title: str, room: float = 0.2) -> tuple[Figure, Axes]:
    """A figure with a row for every name; ``room`` inches stay free on the right."""
    shown = [_shortened(plain(name)) for name in names]
    left = 0.25 + 0.068 * max([len(name) for name in shown] + [4])
    height = max(2.0, HEAD + FOOT + ROW * len(names))
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((left / WIDTH, FOOT / height, 1 - (left + room) / WIDTH, _part(height)))
    axes.set_yticks(range(len(names)), shown, fontsize=7.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(length=0, labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    figure.text(
        0.12 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=9.5, weight="bold", color=INK
    )
    return figure, axes


def _part(height: float) -> float:
    """The part of a page that its rows have."""
    return 1 - (HEAD + FOOT) / height


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
