"""Strategy = how many channels each group keeps; Plan = which ones. Their files.

A plan names every tensor that changes and the slices that stay, so that applying it needs neither
the traced graph nor the data: `amc.shrink(model, plan)` is slicing and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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
