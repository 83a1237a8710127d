"""Strategies whose networks are timed: wide and narrow ones, even and uneven ones."""

import numpy as np

from amc.graph.arrays import IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.objectives.options import allowed_counts
from amc.runtime.errors import AmcError

MIXTURE = (16, 16, 16, 8, 8, 8, 4, 4, 1, 1)
"""Multiples of the counts, in turn, where the one that is rewarded is not known yet."""

WHOLE_EVERY = 12
"""Among so many samples one is the original network: what all others are compared with."""


def samples(
    graph: ChannelGraph, number: int, multiple: int | None, min_ratio: float, seed: int
) -> list[IntArray]:
    """Counts [T] of networks to be timed; the first is the original.

    Args:
        graph: of the network.
        number: of samples.
        multiple: of the kept channels; None for several.
        min_ratio: no group keeps less than this part.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([group.size for group in graph.decisions], dtype=np.int64)
    found = []
    for row in range(number):
        step = MIXTURE[row % len(MIXTURE)] if multiple is None else multiple
        found.append(sizes if row % WHOLE_EVERY == 0 else drawn(graph, step, min_ratio, rng))
    return found


def drawn(
    graph: ChannelGraph, multiple: int, min_ratio: float, rng: np.random.Generator
) -> IntArray:
    """Random counts: a common part of all groups, and a part of their own, of random weights."""
    common, own = rng.uniform(min_ratio, 1), rng.uniform(0, 1)
    counts = []
    for group in graph.decisions:
        ratio = (1 - own) * common + own * rng.uniform(min_ratio, 1)
        options = _options(group, multiple, min_ratio)
        counts.append(int(options[np.abs(options - ratio * group.size).argmin()]))
    return np.array(counts, dtype=np.int64)


def _options(group: ChannelGroup, multiple: int, min_ratio: float) -> IntArray:
    try:
        return allowed_counts(group, multiple, min_ratio)
    except AmcError:  # a bound of the user's that holds no such multiple
        return allowed_counts(group, 1, min_ratio)
