"""The counts that a group may take."""

import math

import numpy as np

from amc.graph.arrays import IntArray
from amc.graph.groups import ChannelGroup
from amc.runtime.errors import AmcError


def allowed_counts(group: ChannelGroup, multiple: int, min_ratio: float) -> IntArray:
    """Counts whose channels are multiples of ``multiple``, and the full size, within the bounds.

    Bounds are the group's own, and ``min_ratio`` of its size; bounds that leave one count only
    give it.

    Raises:
        AmcError: no multiple lies within the bounds.
    """
    fewest, most = group.bounds
    if fewest == most:  # a count that was given: nothing is left to round
        return np.array([most], dtype=np.int64)
    least = min(max(fewest, math.ceil(min_ratio * group.size - 1e-9)), most)
    apart = step(group, multiple)
    counts = np.arange(apart, most + 1, apart, dtype=np.int64)
    counts = counts[counts >= least]
    if most == group.size:
        return np.unique(np.append(counts, most))
    if not len(counts):
        raise AmcError(
            f"{group.name}: no multiple of {multiple} lies within its bounds, "
            f"{least * group.width} to {most * group.width} channels"
        )
    return counts


def step(group: ChannelGroup, multiple: int) -> int:
    """The least count of the group whose channels are a multiple of ``multiple``.

    Heads of attention are few, and as wide as the network has them: each counts as a multiple.
    """
    if group.unit == "head":
        return 1
    return multiple // math.gcd(multiple, group.width)
