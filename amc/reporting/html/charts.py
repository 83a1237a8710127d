"""Charts of a run: rewards and strategies over the episodes, scores over the epochs.

Each is drawn twice, for wide and for narrow pages, with letters of the same size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amc.graph.arrays import FloatArray
from amc.reporting.html.record import RunRecord
from amc.reporting.html.themed import COLOURS
from amc.runtime.wording import plain

WIDE, NARROW = 900, 340
"""Points of the two widths; in a page a point is a pixel."""

POINTS = 12.0
MANY = 500
"""Marks above which they are pixels instead of shapes."""

HEAT = "#2b7fd4"
"""Of cells, on paper of any colour; `style.css` has it as well."""

INK, SOFT, RULE = (COLOURS[name][0] for name in ("ink", "soft", "rule"))
ACCENT, FAINT, WARM = (COLOURS[name][0] for name in ("accent", "faint", "warm"))

Draw = Callable[[int], Figure]
"""Width -> figure."""


def _axes(
    width: int, height: float, x: str, y: str, left: float = 66, top: float = 8
) -> tuple[Figure, Axes]:
    """Axes within margins that are known; to have them computed takes as long as the drawing."""
    figure, below, right = Figure(figsize=(width / 72, height / 72), dpi=72), 44.0, 8.0
    inside = (width - left - right) / width, (height - below - top) / height
    axes = figure.add_axes((left / width, below / height, *inside))
    axes.set_xlabel(x, fontsize=POINTS, color=SOFT)
    axes.set_ylabel(y, fontsize=POINTS, color=SOFT)
    axes.tick_params(labelsize=POINTS, labelcolor=SOFT, color=RULE, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10 if width > 500 else 5))
    axes.set_axisbelow(True)
    return figure, axes


def bottom_of(rewards: Sequence[float]) -> float:
    """The lowest reward that is drawn: far outliers would press all others together."""
    values = np.array([r for r in rewards if np.isfinite(r)])
    low, middle, high = np.quantile(values, [0.1, 0.5, 1.0])
    reach = max(high - middle, middle - low, 1e-12)
    return float(max(values.min(), low - 2 * reach))


def rewards(run: RunRecord, width: int) -> Figure:
    """Reward of every episode, the best so far, warm-up, and the walk without noise."""
    figure, axes = _axes(width, 300 if width > 500 else 260, "episode", "reward")
    numbers = np.array([one.number for one in run.episodes])
    values = np.array([one.reward for one in run.episodes])
    low = bottom_of(values.tolist())
    shown, pixels = np.maximum(values, low), len(values) > MANY
    warm, policy, best = numbers < run.warmup, run.without_noise, run.best
    if run.warmup:
        axes.axvspan(-0.5, run.warmup - 0.5, color=COLOURS["panel"][0], lw=0, zorder=0)
        axes.annotate(
            "warm-up", (-0.2, 0.02), xycoords=("data", "axes fraction"), fontsize=POINTS - 1,
            color=SOFT, va="bottom",
        )  # fmt: skip
    axes.grid(axis="y", color=RULE, lw=0.8)
    so_far = np.maximum.accumulate(values)
    axes.plot(numbers, np.maximum(so_far, low), color=ACCENT, lw=1.6, drawstyle="steps-post")
    for mask, colour in ((warm, FAINT), (~warm, ACCENT)):
        inside, below = mask & (values >= low), mask & (values < low)
        style: dict[str, Any] = {
            "color": colour,
            "ls": "",
            "alpha": 0.75,
            "rasterized": pixels,
            "mew": 0,
        }
        axes.plot(numbers[inside], shown[inside], marker="o", ms=5, **style)
        axes.plot(numbers[below], shown[below], marker="v", ms=6, clip_on=False, **style)
    if policy is not None:
        axes.plot(
            policy, shown[policy], marker="D", ms=9, mfc="none", mec=WARM, mew=2, clip_on=False
        )
    axes.plot(best.number, best.reward, marker="*", ms=15, color=ACCENT, mec="#ffffff", mew=1)
    high = float(values.max())
    axes.set_ylim(low - 0.04 * (high - low or 1), high + 0.1 * (high - low or 1))
    axes.set_xlim(-0.5, max(len(values) - 0.5, 1))
    return figure


def ratios(run: RunRecord) -> tuple[list[str], FloatArray]:
    """Names of the groups, and the part of the channels that each keeps in every episode."""
    sizes = run.sizes
    seen = [name for one in run.episodes for name in one.strategy]
    names = [name for name in sizes or dict.fromkeys(seen) if name in set(seen)]
    if not sizes:  # a run that has not ended: the most that was kept is all that is known
        sizes = {n: max(one.strategy.get(n, 1) for one in run.episodes) for n in names}
    found = [
        [one.strategy.get(name, sizes[name]) / sizes[name] for one in run.episodes]
        for name in names
    ]
    return names, np.array(found, dtype=np.float64).reshape(len(names), len(run.episodes))


def strategies(run: RunRecord, width: int) -> Figure:
    """Rows are groups, columns episodes; the more colour, the more channels stay."""
    names, kept = ratios(run)
    row = 15.0 if len(names) <= 50 else max(4.0, 750 / len(names))
    longest = 34 if width > 500 else 14
    labels = [abbreviated(plain(name), longest) for name in names]
    left = 10 + 6.7 * max(map(len, labels))
    figure, axes = _axes(width, 62 + row * len(names), "episode", "", left, top=18)
    picture = np.ones((*kept.shape, 4))
    picture[..., :3] = to_rgb(HEAT)
    picture[..., 3] = 0.06 + 0.94 * kept.clip(0, 1) ** 1.5
    axes.imshow(picture, aspect="auto", interpolation="none")
    every = max(1, int(np.ceil(12.5 / row)))
    axes.set_yticks(range(0, len(names), every), labels[::every])
    axes.tick_params(axis="y", labelsize=10.5, length=0)
    axes.spines[:].set_visible(False)
    if run.warmup and run.warmup < len(run.episodes):
        axes.axvline(run.warmup - 0.5, color=WARM, lw=1.2, ls=(0, (4, 3)))
    best = run.best.number
    side = _side(best, len(run.episodes))
    axes.annotate(
        "best", (best, -0.5), (0, 3), textcoords="offset points", ha=side, fontsize=POINTS - 1,
        color=INK, annotation_clip=False,
    )  # fmt: skip
    axes.plot([best - 0.5, best + 0.5], [-0.5, -0.5], color=INK, lw=2.5, clip_on=False)
    return figure


def _side(place: int, count: int) -> str:
    return "left" if place < 0.1 * count else "right" if place > 0.9 * count else "center"


def recovery(
    trainings: Sequence[Mapping[str, Any]], score: tuple[str, bool], width: int
) -> Figure:
    """Score on validation images before training and after every epoch; all stages in a row."""
    name, percent = score
    y = f"validation {plain(name)}" + (", %" if percent else "")
    figure, axes = _axes(width, 260 if width > 500 else 240, "epochs of training", y)
    axes.grid(axis="y", color=RULE, lw=0.8)
    start = 0
    for one in trainings:
        scores = [np.nan if score is None else score for score in one["scores"]]
        values = np.array(scores) * (100 if percent else 1)
        if start:
            axes.axvline(start, color=RULE, lw=1, ls=(0, (4, 3)))
        colour = WARM if one["again"] else ACCENT
        epochs = np.arange(start, start + len(values))
        axes.plot(epochs, values, color=colour, lw=1.8, marker="o", ms=5, mew=0)
        first = one.get("counts_from", 0)
        known = values[first:]
        if not np.isnan(known).all() and np.nanmax(known) >= least_of(one) * (
            100 if percent else 1
        ):
            best = first + int(np.flatnonzero(known == np.nanmax(known))[-1])  # as `BestNetwork`
            axes.plot(epochs[best], values[best], "o", ms=10, mfc="none", mec=colour, mew=1.8)
        start += len(values) - 1
    axes.set_xlim(-0.02 * max(start, 1), 1.02 * max(start, 1))
    axes.margins(y=0.15)
    return figure


def least_of(training: Mapping[str, Any]) -> float:
    """The score that its result must have, where that is not the one to begin with."""
    return float(training.get("least", -np.inf))


def levels(epochs: Sequence[float], width: int) -> Figure:
    """The part of the weights that is zero, by epoch."""
    figure, axes = _axes(width, 200, "epochs of training", "zeros, %")
    axes.grid(axis="y", color=RULE, lw=0.8)
    values = 100 * np.array(epochs)
    axes.plot(np.arange(len(values)), values, color=ACCENT, lw=1.8, marker="o", ms=5, mew=0)
    axes.set_ylim(0, max(5.0, 1.1 * float(values.max())))
    return figure


def abbreviated(name: str, longest: int) -> str:
    """A dotted name that fits: parts become their first letter, the first part first.

    Numbers stay, and the last part as far as there is room: names that differ in where they are
    stay different.
    """
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if len(".".join(parts)) <= longest:
            break
        parts[place] = part if part.isdigit() else part[:1]
    short = ".".join(parts)
    return short if len(short) <= longest else f"{short[: longest - 1]}…"


def best_so_far(runs: Mapping[str, RunRecord], width: int) -> Figure:
    """The best reward so far of several searches."""
    figure, axes = _axes(width, 300 if width > 500 else 260, "episode", "best reward so far")
    axes.grid(axis="y", color=RULE, lw=0.8)
    lowest = [float("inf")]
    for number, run in enumerate(runs.values()):
        values = np.maximum.accumulate([one.reward for one in run.episodes])
        lowest.append(bottom_of(values.tolist()))
        colour, style = line_of(number)
        axes.plot(
            np.arange(len(values)), values, color=colour, ls=style, lw=1.8, drawstyle="steps-post"
        )
    axes.set_ylim(bottom=min(lowest) - 0.02 * abs(min(lowest)))
    return figure


def trained(runs: Mapping[str, RunRecord], score: tuple[str, bool], width: int) -> Figure:
    """Score on validation images by epoch, of several runs."""
    name, percent = score
    y = f"validation {plain(name)}" + (", %" if percent else "")
    figure, axes = _axes(width, 280 if width > 500 else 250, "epochs of training", y)
    axes.grid(axis="y", color=RULE, lw=0.8)
    for number, run in enumerate(runs.values()):
        scores = [
            one["scores"] if not i else one["scores"][1:] for i, one in enumerate(run.trainings)
        ]
        values = [
            np.nan if s is None else s * (100 if percent else 1) for some in scores for s in some
        ]
        colour, style = line_of(number)
        axes.plot(
            np.arange(len(values)), values, color=colour, ls=style, lw=1.8, marker="o", ms=4, mew=0
        )
    axes.margins(y=0.15)
    return figure


def line_of(number: int) -> tuple[str, str]:
    """Colour and dashes of a run among several."""
    return COLOURS[f"s{number % 5 + 1}"][0], ("-", "--", ":", "-.")[number // 5 % 4]
