"""Why the time of a network does not follow its MACs, and the channel multiple that would help.

Guesses would be cheap. What is left of the network is timed again with the same MACs in the same
proportions, once with counts that are multiples of 4, once of 8, and so on; and with the fewest
channels that there may be, which tells the time that no channel costs. Weights do not matter for
that: nothing is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from torch import nn

from amc.graph.arrays import IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan
from amc.measuring.exported import Exported
from amc.measuring.measure import Networks, eager
from amc.objectives import latency
from amc.objectives.budget import Budget
from amc.objectives.latency import Progress, Timing
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed

MULTIPLES = (4, 8, 16, 32)
"""Blocks of channels that runtimes compute at once."""

HELPS, ALIKE = 0.9, 1.05
"""A multiple helps if it takes this part of the time or less; times that differ less are alike."""

FIXED = 0.5
"""Above this part of the time with the fewest channels, channels are not what costs."""

LONGEST = 1000.0
"""Milliseconds of a pass from which on nothing more is timed: it would take minutes."""


@dataclass(frozen=True)
class Slow:
    """A network whose time falls by less than half of what its MACs do.

    Attributes:
        where: the runtime, and what it runs on.
        batch: samples in a pass.
        ratio: the part of the time that is left.
        macs: the part of the MACs.
        cut: groups that lost channels, and how many of these keep no multiple of 8.
        tried: channel multiple -> part of the time with the same MACs in the same proportions.
        least: part of the time with the fewest channels; None if it was not measured.
        advice: the ``--channel-multiple`` that would help; None if none would.
    """

    where: str
    batch: int
    ratio: float
    macs: float
    cut: tuple[int, int]
    tried: Mapping[int, float] = field(default_factory=dict)
    least: float | None = None
    advice: int | None = None

    def line(self) -> str:
        """What there is to say, and what to do."""
        return (
            f"slow     {self.ratio:.0%} of the time for {self.macs:.0%} of the MACs in "
            f"{self.where}, batch {self.batch}: {self._reason()}"
        )

    def _reason(self) -> str:
        many, odd = self.cut
        if self.advice is not None:
            why = "runtimes compute whole blocks of channels"
            if self.advice == 8 and odd:
                why = f"{odd} of {many} groups that were cut keep no multiple of 8"
            return (
                f"{why}; --channel-multiple {self.advice} takes {self.tried[self.advice]:.0%} "
                "with the same MACs, as measured"
            )
        if self.least is not None and self.least > FIXED:
            return (
                f"with the fewest channels it still takes {self.least:.0%}, its layers cost by "
                "their number and not by their MACs; no --channel-multiple helps, a larger batch "
                "or another runtime may"
            )
        found = "no --channel-multiple was found that helps"
        if self.tried:
            found = f"--channel-multiple {' or '.join(map(str, self.tried))} does not help"
        return f"{found}; search for time instead: python -m amc.latency, --objective latency"


def slow(
    times: Sequence[Timing],
    graph: ChannelGraph,
    plan: Plan,
    model: nn.Module,
    sample: Feed,
    min_ratio: float,
    progress: Progress,
) -> tuple[Slow, ...]:
    """The runtimes in which the time does not follow the MACs, with the reason.

    Eager PyTorch on the CPU is left out where onnxruntime was measured: in small networks it
    measures the calls of operators.

    Args:
        times: that were measured.
        graph: of the original network.
        plan: what is left.
        model: the original network; never changed.
        sample: what it is fed with.
        min_ratio: no group keeps less than this part.
        progress: shows how far it is.
    """
    macs = graph.macs(plan) / graph.macs()
    known = [one for one in times if one.ratio is not None]
    judged = [one for one in known if one.device != "cpu" or one is known[-1]]
    found = []
    for one in judged:
        assert one.ratio is not None and one.original is not None
        if latency.follows(one.ratio, macs):
            continue
        counts = graph.counts(plan.strategy)
        first = Slow(one.where, one.batch, one.ratio, macs, _odd(graph, counts))
        if one.original.median > LONGEST:
            found.append(first)
            continue
        others = candidates(graph, counts, macs, min_ratio)
        every = [counts, *others.values()]
        left, *parts = _timed(one, graph, every, model, sample, progress)
        tried = dict(zip(others, parts, strict=True))
        least = tried.pop(0)
        found.append(replace(first, tried=tried, least=least, advice=advised(left, tried)))
    return tuple(found)


def advised(left: float, tried: Mapping[int, float]) -> int | None:
    """The multiple that helps most; of those that are as good, the smallest. None if none helps.

    Args:
        left: part of the time that is left with the counts as they are.
        tried: and with multiples.
    """
    best = min(tried.values(), default=left)
    if best > HELPS * left:
        return None
    return min(multiple for multiple, part in tried.items() if part <= ALIKE * best)


def candidates(
    graph: ChannelGraph, counts: IntArray, macs: float, min_ratio: float
) -> dict[int, IntArray]:
    """Multiple -> counts [T] in the same proportions with the same MACs; under 0 the fewest.

    Multiples that the counts have already are left out, and those that leave no choice.
    """
    sizes = graph.counts({})
    fewest = Budget(graph, 1.0, min_ratio=min_ratio)
    found = {0: np.array([options[0] for options in fewest.options], dtype=np.int64)}
    known = {counts.tobytes(), sizes.tobytes()}
    for multiple in MULTIPLES:
        try:
            budget = Budget(graph, macs, multiple=multiple, min_ratio=min_ratio)
        except AmcError:  # no such counts cost so little
            continue
        if all(c in options for c, options in zip(counts, budget.options, strict=True)):
            continue
        rounded = budget.complete(budget.fitted((counts / sizes)[None])[0].tolist())
        if rounded.tobytes() not in known:
            known.add(rounded.tobytes())
            found[multiple] = rounded
    return found


def _odd(graph: ChannelGraph, counts: IntArray) -> tuple[int, int]:
    """Groups that lost channels, and how many of them keep no multiple of 8."""
    cut = [
        int(count) * group.width
        for group, count in zip(graph.decisions, counts, strict=True)
        if count < group.size
    ]
    return len(cut), sum(channels % 8 > 0 for channels in cut)


def _timed(
    where: Timing,
    graph: ChannelGraph,
    every: Sequence[IntArray],
    model: nn.Module,
    sample: Feed,
    progress: Progress,
) -> list[float]:
    """The time with these counts, [N] of [T], as parts of the original's."""
    networks: Networks = eager(model, graph, sample)
    if where.runtime.startswith("onnxruntime"):
        with progress("export", None):
            networks = Exported(model, graph, sample, where.threads)
    with progress("why slow", len(every) + 1 + latency.ROUNDS) as bar:
        runs = []
        for counts in (graph.counts({}), *every):
            runs.append(networks(counts))
            bar.step()
        first, *rest = latency.race(runs, where.threads, where.device, bar.step)
    return [median(b.median / a.median for a, b in zip(first, one, strict=True)) for one in rest]
