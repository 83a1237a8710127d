"""Peak memory of activations: what a forward pass keeps at its worst moment."""

import numpy as np

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.objectives.objective import Objective


def activations(graph: ChannelGraph) -> Objective:
    """Bytes of all activations that are there at the same time, per sample, at their most.

    Every tensor of the traced program is there from the operator that makes it to the last one
    that reads it or a view of it; the network's input from the beginning. Weights and what
    operators need inside of themselves are not counted.
    """
    fixed, per_channel = _moments(graph)

    def peak(counts: IntArray) -> FloatArray:
        found: FloatArray = (fixed[:, None] + per_channel @ counts.T).max(axis=0) // graph.batch
        return found

    return Objective("activations", "bytes of activations", peak)


def _moments(graph: ChannelGraph) -> tuple[FloatArray, FloatArray]:
    """Bytes at every moment that may be the worst, [S] and [S, T] per channel.

    A moment at which another one has more of everything never is.
    """
    position = {group.name: t for t, group in enumerate(graph.decisions)}
    whole = {group.name: group.size for group in graph.groups if not group.prunable}
    end = max((one.last for one in graph.activations), default=0)
    rows = np.zeros((end + 2, 1 + len(position)))  # of what comes and goes
    for one in graph.activations:
        size = np.zeros(1 + len(position))
        size[0] = one.fixed
        for name, channel in one.per_channel.items():
            if name in position:
                size[1 + position[name]] = channel
            else:  # restrictions have made it stay
                size[0] += channel * whole[name]
        rows[one.first] += size
        rows[one.last + 1] -= size
    rows = np.unique(np.cumsum(rows, axis=0), axis=0)
    worst: list[FloatArray] = []
    for row in rows[np.argsort(-rows.sum(axis=1), kind="stable")]:
        if not any((row <= other).all() for other in worst):
            worst.append(row)
    kept = np.array(worst)
    return kept[:, 0], kept[:, 1:]
