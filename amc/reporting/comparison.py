"""The standings of a comparison: a table, a line of plain words per rival, a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from amc.graph.arrays import FloatArray
from amc.graph.plan import Strategy
from amc.reporting.figures import RULE, write_figure
from amc.runtime.wording import plain
from amc.tasks.task import CLASSIFICATION, Task


@dataclass(frozen=True)
class Attempt:
    """What one method found with one seed.

    Attributes:
        method: see `amc.compare`.
        seed: of the search.
        rewards: of every strategy that was tried, in order.
        strategy: the best of them.
        macs: its multiply-accumulates per image.
        accuracy: its validation accuracy as the search saw it, 0 to 1, or another task's score.
        seconds: that the method took besides the evaluations.
        cut: its accuracy once it is cut for real, by split, 0 to 1; empty if it was not.
        trainings: how often its agent has learned; None where there is no agent.
    """

    method: str
    seed: int
    rewards: tuple[float, ...]
    strategy: Strategy
    macs: int
    accuracy: float
    seconds: float
    cut: Mapping[str, float] = field(default_factory=dict)
    trainings: int | None = None

    @property
    def best(self) -> float:
        """The highest reward."""
        return max(self.rewards)

    def best_after(self, part: float) -> float:
        """The highest reward within this part of the evaluations."""
        return max(self.rewards[: math.ceil(part * len(self.rewards))])


Standings = Mapping[str, Sequence[Attempt]]
"""Method -> its attempts, by seed."""


def comparison_table(
    standings: Standings, original_macs: int, task: Task = CLASSIFICATION
) -> Table:
    """One row per method: means over the seeds, ± standard deviations.

    The best reward at the end, after a quarter and after half of the evaluations; accuracies in
    percent, or the scores of another task; the part of the MACs that is left; seconds of a search
    besides its evaluations.
    """
    applied = all(a.cut for attempts in standings.values() for a in attempts)
    table = Table(title="Standings", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    accuracies = ("validation\nafter cut", "test\nafter cut") if applied else ("validation",)
    for header in ("best reward", "1/4", "1/2", *accuracies, "MACs", "s"):
        table.add_column(Text(header), justify="right", no_wrap=True)
    for method, attempts in standings.items():
        search = len(attempts[0].rewards) > 1
        shown = [[a.cut[split] for a in attempts] for split in ("validation", "test") if applied]
        table.add_row(
            method,
            spread([a.best for a in attempts]),
            *(f"{mean(a.best_after(p) for a in attempts):.3g}" * search for p in (0.25, 0.5)),
            *(
                (percent if task.percent else spread)(values)
                for values in shown or [[a.accuracy for a in attempts]]
            ),
            f"{mean(a.macs for a in attempts) / original_macs:.1%}",
            f"{mean(a.seconds for a in attempts):.1f}",
        )
    return table


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, or the value alone."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{mean(values):.3g} ± {stdev(values):.1g}"


def percent(values: Sequence[float]) -> str:
    """Mean and spread of parts of one, as percentages."""
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}"


def verdicts(standings: Standings, task: Task = CLASSIFICATION) -> list[str]:
    """How the first method does against each of the others, seed by seed.

    Of agents that have not learned there is nothing to say.
    """
    (first, own), *others = standings.items()
    lines = []
    for rival, attempts in others:
        pairs = pair(own, attempts)
        if says := unlearned({first: own, rival: attempts}):
            lines.append(f"no verdict on {first} and {rival}: {says}")
            continue
        gains = [a.best - b.best for a, b in pairs]
        gain, better = mean(gains), sum(g > 0 for g in gains)
        clear = all(g * gain > 0 for g in gains)
        if not any(gains):
            says = "equals"
        elif clear:
            says = "beats" if gain > 0 else "loses to"
        else:
            says = "is ahead of" if gain > 0 else "is behind"
        line = f"{first} {says} {rival}"
        if any(gains):
            average = "" if clear else " on average"
            line += f" by {abs(gain):.2g}{average} (better in {better} of {len(gains)} seeds)"
        if all(a.cut and b.cut for a, b in pairs):
            ahead = mean(a.cut["test"] - b.cut["test"] for a, b in pairs)
            by = f"{task.points * ahead:+.2f} points" if task.percent else f"{ahead:+.3g}"
            line += f"; test {task.name} after the cut {by}"
        lines.append(line)
    return lines


def unlearned(standings: Standings) -> str:
    """Which agents have not learned; empty if all have."""
    found = {m: a for m, some in standings.items() for a in some if a.trainings == 0}
    if not found:
        return ""
    tried = max(len(attempt.rewards) for attempt in found.values())
    return (
        f"{' and '.join(found)} {'has' if len(found) == 1 else 'have'} not learned, all of the "
        f"{tried} evaluations were warm-up"
    )


def pair(own: Sequence[Attempt], others: Sequence[Attempt]) -> list[tuple[Attempt, Attempt]]:
    """Pairs of attempts: of equal seeds; a method without chance meets every seed."""
    count = max(len(own), len(others))
    return [(own[i % len(own)], others[i % len(others)]) for i in range(count)]


def draw_comparison(standings: Standings, path: Path, title: str) -> None:
    """Writes the best reward so far against the number of evaluations, atomically.

    The same standings give the same bytes.
    """
    write_figure(path, lambda: progress(standings, title))


def progress(
    standings: Standings, title: str = "", size: tuple[float, float] = (7.5, 4.2)
) -> Figure:
    """The best reward so far against the number of evaluations.

    A line per method is the mean over its seeds, the band their range; what takes one evaluation
    is a dashed line.

    Args:
        standings: methods and their attempts.
        title: above.
        size: in inches; the names stand below what is higher than wide.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot(xlabel="evaluations", ylabel="best reward so far")
    axes.set_title(plain(title))
    for number, (method, attempts) in enumerate(standings.items()):
        so_far: FloatArray = np.maximum.accumulate([a.rewards for a in attempts], axis=1)
        colour, episodes = f"C{number}", np.arange(1, so_far.shape[1] + 1)
        if len(episodes) == 1:
            axes.axhline(float(so_far[0, 0]), color=colour, ls="--", lw=1.2, label=method)
            continue
        axes.plot(
            episodes,
            so_far.mean(axis=0),
            color=colour,
            lw=1.6,
            label=method,
            drawstyle="steps-post",
        )
        low, high = so_far.min(axis=0), so_far.max(axis=0)
        axes.fill_between(episodes, low, high, color=colour, alpha=0.12, lw=0, step="post")
    axes.grid(color=RULE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if size[1] > size[0]:
        figure.legend(loc="outside lower left", frameon=False, ncols=2)
    else:
        figure.legend(loc="outside right upper", frameon=False)
    return figure
