"""The channel graph: every group of a network, and what its layers cost."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from amc.graph.arrays import IntArray
from amc.graph.cost import CostModel
from amc.graph.groups import Activation, ChannelGroup, Layer, Member, Product
from amc.graph.plan import Cut, GroupKeep, Plan, Strategy
from amc.runtime.errors import AmcError

NO_LAYERS = "there is no convolution or linear layer"


@dataclass(frozen=True)
class ChannelGraph:
    """What can be removed from a network, and what it costs.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
        >>> print(graph)
        group  channels  layers that read it
        input         3  frozen: network input
        0             8  2
        2             4  frozen: network output
        12,384 MACs per sample, 516 parameters

    Attributes:
        layers: in execution order.
        products: operators outside of the layers whose cost follows channels.
        groups: in the order of their first reader; frozen ones included.
        shapes: shape of every parameter and buffer that some group touches or that costs MACs.
        batch: samples in the example inputs; ``macs`` are per sample.
        other_macs: multiply-accumulates per sample outside of layers and products.
        total_params: parameters of the network.
        activations: what a forward pass keeps in memory.
    """

    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    batch: int
    other_macs: int
    total_params: int
    products: tuple[Product, ...] = ()
    activations: tuple[Activation, ...] = ()

    @cached_property
    def decisions(self) -> tuple[ChannelGroup, ...]:
        """The groups that can be pruned, in the order in which the agent walks them."""
        return tuple(group for group in self.groups if group.prunable)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Channels per prunable group."""
        return {group.name: group.size for group in self.decisions}

    @cached_property
    def channels(self) -> dict[str, tuple[int, int]]:
        """Per prunable group its size, and output channels of its layers per unit of it."""
        return {group.name: (group.size, group.width) for group in self.decisions}

    @cached_property
    def causes(self) -> dict[str, int]:
        """Why groups are frozen -> how many; without the places, the most frequent first."""
        found = Counter(g.reason.split(" (")[0] for g in self.groups if not g.prunable)
        return dict(found.most_common())

    @cached_property
    def cost(self) -> CostModel:
        """MACs and parameters as functions of the kept channels of `decisions`."""
        return CostModel.of(
            self.decisions,
            self.layers,
            self.products,
            self.shapes,
            self.parameters,
            batch=self.batch,
            other_macs=self.other_macs,
            total_params=self.total_params,
        )

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            AmcError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise AmcError(
            f"unknown layer {name!r}; layers are {', '.join(x.name for x in self.layers)}"
        )

    def counts(self, strategy: Strategy) -> IntArray:
        """Kept channels per decision, [T]; groups that are not named keep all."""
        return np.array([strategy.get(g.name, g.size) for g in self.decisions], dtype=np.int64)

    def macs(self, plan: Plan | None = None) -> int:
        """Multiply-accumulates per sample of convolutions, linear layers and matrix products."""
        return self.cost.macs(self.counts(plan.strategy if plan else {}))

    def params(self, plan: Plan | None = None) -> int:
        """Parameters of the network after the plan."""
        return self.cost.params(self.counts(plan.strategy if plan else {}))

    def plan(self, keep: Mapping[str, Sequence[int] | IntArray]) -> Plan:
        """The plan that keeps these channels (indices within each group).

        Raises:
            AmcError: an unknown or frozen group, no channel left, or an index out of range.
        """
        groups: dict[str, GroupKeep] = {}
        kept_rows: dict[tuple[str, int], list[tuple[Member, IntArray]]] = {}
        known = {group.name: group for group in self.groups}
        for name, indices in keep.items():
            group = known.get(name)
            if group is None:
                raise AmcError(f"unknown group {name!r}; groups are {', '.join(self.sizes)}")
            kept = np.unique(np.asarray(indices, dtype=np.int64))
            least, most = group.bounds
            inside = not len(kept) or (0 <= kept[0] and kept[-1] < group.size)
            if not inside or not (least <= len(kept) <= most):
                raise AmcError(
                    f"{name}: expected {least} to {most} channels in 0..{group.size - 1} to keep"
                )
            if len(kept) == group.size:
                continue
            if not group.prunable:
                raise AmcError(f"{name}: cannot be pruned: {group.reason}")
            groups[name] = GroupKeep(group.size, tuple(kept.tolist()))
            for member in group.members:
                kept_rows.setdefault((member.tensor, member.dim), []).append((member, kept))
        cuts = tuple(
            self._cut(t, d, rows) for (t, d), rows in sorted(kept_rows.items(), key=lambda x: x[0])
        )
        return Plan(groups, cuts)

    def _cut(self, tensor: str, dim: int, rows: Iterable[tuple[Member, IntArray]]) -> Cut:
        stay = np.ones(self.shapes[tensor][dim], dtype=bool)
        for member, kept in rows:
            stay[member.index] = False
            stay[member.index[kept]] = True
        return Cut(tensor, dim, len(stay), tuple(np.flatnonzero(stay).tolist()))

    def spare(self, names: Collection[str]) -> "ChannelGraph":
        """The same graph, in which these groups keep two channels or more."""
        groups = tuple(replace(g, least=2) if g.name in names else g for g in self.groups)
        return replace(self, groups=groups)

    def freeze(self, reasons: Mapping[str, str]) -> "ChannelGraph":
        """The same graph with further groups that must stay whole."""
        groups = tuple(
            replace(g, reason=reasons[g.name]) if g.name in reasons and g.prunable else g
            for g in self.groups
        )
        return replace(self, groups=groups)

    def __str__(self) -> str:
        """A table: one line per group."""
        width = max([len(g.name) for g in self.groups] + [5])
        lines = [f"{'group':<{width}}  channels  layers that read it"]
        for group in self.groups:
            tail = ", ".join(group.readers) if group.prunable else f"frozen: {group.reason}"
            tail += f" ({group.size} heads)" if group.unit == "head" and group.prunable else ""
            lines.append(f"{group.name:<{width}}  {group.size * group.width:>8}  {tail}")
        if not self.groups:
            lines.append(f"nothing can be pruned: {NO_LAYERS}")
        lines.append(f"{self.macs():,} MACs per sample, {self.total_params:,} parameters")
        return "\n".join(lines)
