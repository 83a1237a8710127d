"""Which cuts are tried to see what a network bears: usual ones, uneven ones, the deepest."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.graph.plan import Plan

GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, taken modulo one, fill the unit interval evenly."""

Trial = Callable[[ChannelGraph], Mapping[str, int]]
"""How many channels each prunable group keeps."""


def uneven(graph: ChannelGraph, digit: int = 0, shift: int = 0) -> dict[str, int]:
    """Usual cuts, about a third goes; groups of equal size keep different numbers.

    Code that reads the size of one group and means another would otherwise never show. Groups of a
    size are numbered in base n, how many numbers they may keep: ``digit`` says which digit counts,
    ``shift`` where they start.
    """
    met: dict[int, int] = {}  # a start of its own for every size, lest all keep the same part
    kept = {}
    for group in graph.decisions:
        met.setdefault(group.size, len(met) + shift)
        usual = usual_counts(group.size, group.bounds[0])
        kept[group.name] = usual[met[group.size] // len(usual) ** digit % len(usual)]
        met[group.size] += 1
    return kept


def usual_counts(size: int, least: int = 1) -> list[int]:
    """Numbers of channels to keep, two thirds first; not all, but where one is the only other."""
    usual = size - max(1, size // 3)
    counts = range(min(least, size - 1), size + (size == 2))
    return sorted(counts, key=lambda k: (abs(k - usual), k))


def unevenly(graph: ChannelGraph) -> list[Trial]:
    """As many `uneven` trials as it takes for any two groups of a size to differ, and one more.

    A group that keeps a single channel in all of them, which may pass by broadcasting, keeps more
    in a last one.
    """
    trials = 1
    for size, groups in Counter(g.size for g in graph.decisions).items():
        values = len(usual_counts(size))
        while values > 1 and values**trials < groups:
            trials += 1
    found: list[Trial] = [*(partial(uneven, digit=d) for d in range(trials)), scattered]
    counts = [trial(graph) for trial in found]
    single = [
        g for g in graph.decisions if g.size > 2 and all(kept[g.name] == 1 for kept in counts)
    ]
    return [*found, partial(_several, names=[g.name for g in single])] if single else found


def _several(graph: ChannelGraph, names: Sequence[str]) -> dict[str, int]:
    """A usual cut in which these groups keep several channels, and not as many as their equals."""
    kept = uneven(graph)
    for group in (g for g in graph.decisions if g.name in names):
        taken = {kept[g.name] for g in graph.decisions if g.size == group.size}
        free = [k for k in usual_counts(group.size) if k > 1]
        kept[group.name] = next((k for k in free if k not in taken), free[0])
    return kept


def scattered(graph: ChannelGraph) -> dict[str, int]:
    """All parts of the whole, far apart in groups that follow each other.

    Half of 11 channels may by chance be what another group keeps as well.
    """
    parts = (GOLDEN * (place + 1) % 1 for place in range(len(graph.decisions)))
    return {
        group.name: group.bounds[0] + int(part * (group.size - group.bounds[0]))
        for group, part in zip(graph.decisions, parts, strict=True)
    }


def fewest(graph: ChannelGraph) -> dict[str, int]:
    """The deepest cut: a dimension of one is what ``squeeze`` and broadcasting fall for."""
    return {group.name: group.bounds[0] for group in graph.decisions}


def cut_plan(
    graph: ChannelGraph, groups: Sequence[ChannelGroup], counts: Mapping[str, int]
) -> Plan:
    """These numbers of channels, drawn at random.

    Few channels are others than many would be, in case a dead one hides a difference.
    """
    rng = np.random.default_rng(0)
    keep = {}
    for group in groups:
        order, count = rng.permutation(group.size), counts[group.name]
        keep[group.name] = order[:count] if 2 * count > group.size else order[group.size - count :]
    return graph.plan(keep)
