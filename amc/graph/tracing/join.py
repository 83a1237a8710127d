"""Groups that must keep equally many channels: forward reads one's size and means the other's.

After ``b, c, h, w = x.shape`` a module may write ``y.view(b, c, 1, 1)``: neither the channels of x
nor those of y can be cut alone. Nothing in the operators says so; it is found by executing cuts.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from amc.graph.arrays import IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.graph.operators.labels import LabelSpace
from amc.graph.tracing.cuts import usual_counts
from amc.graph.tracing.proof import TOGETHER, Proof

Groups = Sequence[ChannelGroup]


def partners(graph: ChannelGraph, proof: Proof, failing: Mapping[str, str]) -> list[Groups]:
    """Sets of groups that can be cut if they keep equally many channels, or equal parts.

    Args:
        graph: of the network.
        proof: executes its cuts.
        failing: groups that cannot be cut, and why; what has no partner is left out.
    """
    search, found = _Search(graph, proof, 16 + 4 * len(failing)), list[Groups]()
    alone = [g for g in graph.decisions if failing.get(g.name, TOGETHER) != TOGETHER]
    for size in sorted({g.size for g in alone}):
        found += search.sets([g for g in alone if g.size == size])
    taken = {g.name for groups in found for g in groups}
    left = [g for g in alone if g.name not in taken]
    for size in sorted({g.size for g in left}):  # such as heads of c // 4 channels
        found += search.sets([g for g in left if g.size % size == 0])
        taken = {g.name for groups in found for g in groups}
        left = [g for g in left if g.name not in taken]
    return found


def unite(space: LabelSpace, groups: Groups) -> None:
    """Makes one decision of several: channel i of each, or the i-th of equal parts."""
    unit = min(group.size for group in groups)
    rows = [_labels(space, group).reshape(unit, -1) for group in groups]
    for row in rows:
        space.union(np.broadcast_to(rows[0][:, :1], row.shape), row)


def _labels(space: LabelSpace, group: ChannelGroup) -> IntArray:
    """A label of every channel, [size]."""
    member = group.members[0]
    labels: IntArray = np.asarray(space.bound[member.tensor, member.dim])[member.index[:, 0]]
    return labels


class _Search:
    """Executes cuts, as many as are allowed; after that nothing fits."""

    def __init__(self, graph: ChannelGraph, proof: Proof, allowed: int) -> None:
        self._graph, self._proof, self._left = graph, proof, allowed

    def sets(self, groups: Groups) -> list[Groups]:
        """The smallest sets that can be cut; groups in execution order, sizes multiples."""
        if len(groups) < 2:
            return []
        if self._fit(groups):
            return self._split(groups)
        without = next((g for g in groups if self._fit([h for h in groups if h is not g])), None)
        if without is not None:  # there is one that nothing helps
            rest = [g for g in groups if g is not without]
            return self._split(rest) if len(rest) > 1 else []
        half = len(groups) // 2
        found = [*self.sets(groups[:half]), *self.sets(groups[half:])]
        taken = {g.name for one in found for g in one}
        left = [g for g in groups if g.name not in taken]
        return found + self._pairs(left)

    def _pairs(self, groups: Groups) -> list[Groups]:
        """Pairs that can be cut, near ones first, among groups that also hold others."""
        left, found = list(groups), list[Groups]()
        for distance in range(1, min(len(groups), 8)):
            for one, other in zip(groups, groups[distance:], strict=False):
                if one in left and other in left and self._fit([one, other]):
                    found.append([one, other])
                    left = [g for g in left if g not in (one, other)]
        return found

    def _split(self, groups: Groups) -> list[Groups]:
        """The same groups in smaller sets, if these can be cut independently."""
        if len(groups) < 4:  # each of them needs a partner
            return [groups]
        middle = len(groups) / 2
        for i in sorted(range(2, len(groups) - 1), key=lambda i: abs(i - middle)):
            if self._fit(groups[:i], groups[i:]):
                return [*self._split(groups[:i]), *self._split(groups[i:])]
        for i in range(2, len(groups)):  # the first and one that does not follow it
            pair, rest = [groups[0], groups[i]], [*groups[1:i], *groups[i + 1 :]]
            if self._fit(pair, rest):
                return [pair, *self._split(rest)]
        return [groups]

    def _fit(self, *sets: Groups) -> bool:
        """Whether all sets can be cut at once, each to a part of its own."""
        counts = dict[str, int]()
        for place, groups in enumerate(sets):
            unit = min(g.size for g in groups)
            usual = usual_counts(unit)
            kept = usual[place % len(usual)]
            counts |= {g.name: kept * (g.size // unit) for g in groups}
        self._left -= 1
        return self._left >= 0 and self._proof.fits(self._graph, counts)
