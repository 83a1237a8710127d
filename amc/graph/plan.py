"""Strategy = how many channels each group keeps; Plan = which ones. Their files.

A plan names every tensor that changes and the slices that stay, so that applying it needs neither
the traced graph nor the data: `amc.shrink(model, plan)` is slicing and nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from amc.runtime.errors import AmcError

Strategy = Mapping[str, int]
"""Kept channels per group name; a group that is not named keeps all of its channels."""


@dataclass(frozen=True)
class Cut:
    """The slices of one tensor that stay, along one dimension."""

    tensor: str  # dotted name of a parameter or buffer, or @ and the name of an attribute
    dim: int
    size: int  # slices before the cut
    keep: tuple[int, ...]  # increasing


@dataclass(frozen=True)
class GroupKeep:
    """The channels of one group that stay."""

    size: int
    keep: tuple[int, ...]  # increasing


@dataclass(frozen=True)
class Plan:
    """Which channels stay: by group, as decided, and by tensor, as cut.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
        >>> plan = graph.plan({"0": [0, 3, 5]})
        >>> plan.strategy, graph.macs(plan)
        ({'0': 3}, 4644)
        >>> plan.cuts[-1]
        Cut(tensor='2.weight', dim=1, size=8, keep=(0, 3, 5))

    Attributes:
        groups: group name -> kept channels, for the groups that lose some.
        cuts: every (tensor, dimension) that shrinks.
    """

    groups: Mapping[str, GroupKeep]
    cuts: tuple[Cut, ...]

    @property
    def strategy(self) -> dict[str, int]:
        """Kept channels per group that loses some."""
        return {name: len(group.keep) for name, group in self.groups.items()}

    @property
    def by_tensor(self) -> dict[str, list[Cut]]:
        """The cuts of every tensor and attribute."""
        found: dict[str, list[Cut]] = {}
        for one in self.cuts:
            found.setdefault(one.tensor, []).append(one)
        return found


def cuts_seen_from(outer: Iterable[Cut], cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    """Cuts of tensors as cuts of what outer cuts have left of them.

    Args:
        outer: of the original.
        cuts: of the original; they keep only what the outer ones do.

    Raises:
        AmcError: they keep more.
    """
    left = {(one.tensor, one.dim): one.keep for one in outer}
    found, known = [], dict[tuple[tuple[int, ...], ...], tuple[int, ...]]()
    for one in cuts:
        keep, size = one.keep, one.size
        if (there := left.pop((one.tensor, one.dim), None)) is not None:
            if (there, keep) not in known:  # the tensors of a layer are cut alike
                known[there, keep] = _places(there, keep, one.tensor)
            keep, size = known[there, keep], len(there)
        if len(keep) < size:
            found.append(Cut(one.tensor, one.dim, size, keep))
    for name, _ in left:
        raise AmcError(_kept_more(name))
    return tuple(found)


def _places(there: tuple[int, ...], keep: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Where the kept ones are among those that are there."""
    place = {one: number for number, one in enumerate(there)}
    if any(one not in place for one in keep):
        raise AmcError(_kept_more(name))
    return tuple(place[one] for one in keep)


def _kept_more(name: str) -> str:
    return f"the plan keeps channels that the network it is to be cut from has not: {name}"
