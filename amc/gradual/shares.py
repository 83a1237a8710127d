"""Parts of the weights of every layer as something to share out: what allocators and agents walk.

A channel graph whose groups are layers. The units of a group are fiftieths of the layer's
weights: one that keeps 15 of them has 70 % zeros. So the budget, the environment, agents,
allocators and the record of a search mean the same for them as for channels. What counts is the
number of weights that stay; MACs are those with weights that are not zero.

A strategy is carried out with solutions on the statistics of the original network, each layer by
itself (`amc.sparsity.obs`), which are found when they are first asked for and remembered.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from amc.calibration.statistics import LayerStats
from amc.gradual.one_shot import layers_of
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.cost import CostModel
from amc.graph.groups import ChannelGroup, Layer
from amc.graph.plan import Strategy
from amc.graph.shrink import duplicate, tensors
from amc.objectives.budget import Budget
from amc.objectives.objective import Objective, Quadratic
from amc.reconstruction.compressor import Memo
from amc.sparsity.magnitude import magnitude
from amc.sparsity.obs import solve
from amc.sparsity.patterns import SINGLE, Layout, Pattern
from amc.sparsity.select import chosen

STEPS = 50
"""Units of every group."""

THINNEST = 0.25
"""No layer keeps less than this part of what it would keep if all kept the same."""

KNOWN = 7
"""Counts of every group whose errors are found by solving for it; others lie in between."""

TOLERANCE = 0.01
"""How far below the number of weights a strategy may end; the rest is shared out afterwards."""


@dataclass(frozen=True)
class _Cost(CostModel):
    """What parts of layers cost; ``weights`` are those of every group, [T]."""

    weights: tuple[int, ...] = ()

    def params(self, counts: IntArray) -> int:
        """Parameters that are not zero, for kept fiftieths [T]."""
        return int(np.array(self.weights) @ counts) // STEPS + self.other_params


@dataclass(frozen=True)
class SharesGraph(ChannelGraph):
    """A network of which every layer may lose a part of its weights.

    Attributes:
        weights: of every group, [T].
        whole_macs: MACs per sample without zeros.
    """

    weights: tuple[int, ...] = ()
    whole_macs: int = 0

    @cached_property
    def cost(self) -> CostModel:
        """MACs and parameters of weights that are not zero."""
        at = {name: t for t, group in enumerate(self.decisions) for name in group.readers}
        count, positions = len(self.layers), [layer.positions for layer in self.layers]
        sizes = [math.prod(self.shapes[layer.weight]) for layer in self.layers]
        whole = np.array([layer.name not in at for layer in self.layers])
        shares = np.zeros((count, len(self.decisions)))
        for row, layer in enumerate(self.layers):
            if layer.name in at:
                shares[row, at[layer.name]] = 1
        by_layers = sum(p * n for p, n in zip(positions, sizes, strict=True)) // self.batch
        cost = _Cost.of(
            self.decisions, (), (), {}, (), batch=self.batch * STEPS,
            other_macs=self.whole_macs - by_layers,
            total_params=self.total_params - sum(self.weights),
        )  # fmt: skip
        assert isinstance(cost, _Cost)
        return replace(
            cost,
            scale=np.array(positions, dtype=np.float64) * np.array(sizes),
            in0=whole * float(STEPS), in_k=shares,
            out0=np.ones(count), out_k=np.zeros(shares.shape),
            weights=self.weights,
        )  # fmt: skip

    @property
    def objective(self) -> Objective:
        """How many of these weights stay."""
        each = np.array(self.weights, dtype=np.float64)
        form = Quadratic(0.0, each, np.zeros((len(each), len(each))), STEPS)
        return Objective("weights", "weights", form.of, form)

    def budget(self, level: float) -> Budget:
        """What a strategy may keep, so that this part of the weights becomes zero.

        Raises:
            InfeasibleBudgetError: layers would have to be thinner than they may.
        """
        return Budget(self, round(1 - level, 12), TOLERANCE, min_ratio=0, objective=self.objective)

    def levels(self, strategy: Strategy, level: float) -> dict[str, float]:
        """Part of every weight that becomes zero, so that in sum it is exactly this one.

        What a strategy has left is shared out in the proportions that it has.
        """
        sizes = np.array(self.weights)
        kept = sizes * self.counts(strategy) / STEPS
        wanted = sizes.sum() - round(level * int(sizes.sum()))
        for _ in range(len(sizes)):  # some may be full
            free = kept < sizes
            if not free.any() or abs(missing := wanted - kept.sum()) < 0.5:
                break
            kept[free] *= 1 + missing / kept[free].sum()
            kept = np.minimum(kept, sizes)
        whole = np.floor(kept + 1e-9)
        order = np.argsort(-(kept - whole), kind="stable")
        order = order[(whole < sizes)[order]]
        whole[order[: max(0, int(wanted - whole.sum()))]] += 1
        names = (group.name for group in self.decisions)
        return {n: float(1 - k / size) for n, k, size in zip(names, whole, sizes, strict=True)}


def shares_graph(
    graph: ChannelGraph, model: nn.Module, names: Collection[str], level: float
) -> SharesGraph:
    """The graph of the weights of some layers.

    Args:
        graph: of the network.
        model: the network.
        names: of weights, each of a layer of the graph.
        level: part of all these weights that is to become zero; says how thin a layer may get.
    """
    state, layers = tensors(model), layers_of(graph, model)
    least = max(1, round(THINNEST * (1 - level) * STEPS))
    order = [layer.name for layer in graph.layers]
    groups = [
        ChannelGroup(n, STEPS, (), (), (layers[n].name,), least=least, unit="share")
        for n in sorted(names, key=lambda name: order.index(layers[name].name))
    ]
    fields = {n: getattr(graph, n) for n in ChannelGraph.__dataclass_fields__}
    fields |= {"groups": tuple(groups), "activations": ()}
    weights = tuple(state[group.name].numel() for group in groups)
    return SharesGraph(**fields, weights=weights, whole_macs=graph.macs())


class Shares:
    """Carries out strategies on statistics of the original network, each layer by itself.

    Args:
        graph: whose weights may become zero.
        layers: weight -> its layer, where that can be solved for.
        model: never changed.
        stats: of these layers, by name.
        pattern: what becomes zero together.
        layouts: weight -> where its outputs and inputs are.
        memory: bytes that may be held.
    """

    def __init__(
        self,
        graph: SharesGraph,
        layers: Mapping[str, Layer],
        model: nn.Module,
        stats: Mapping[str, LayerStats],
        pattern: Pattern = SINGLE,
        layouts: Mapping[str, Layout] | None = None,
        memory: int | None = None,
    ) -> None:
        self.graph, self.model = graph, model
        self._layers, self._stats = layers, stats
        self.pattern, self._layouts = pattern, layouts or {}
        self._source = {group.name: tensors(model)[group.name] for group in graph.decisions}
        self._solutions, self._errors = Memo(memory), dict[tuple[str, int], float]()
        self._worn = dict.fromkeys(self._source, STEPS)

    @cached_property
    def _scratch(self) -> nn.Module:
        return duplicate(self.model).eval()

    @cached_property
    def _places(self) -> Mapping[str, Tensor]:
        return tensors(self._scratch)

    def view(self, strategy: Strategy) -> nn.Module:
        """The network under a strategy, in eval mode: valid until the next call."""
        with torch.no_grad():
            for name, source in self._source.items():
                count = strategy.get(name, STEPS)
                if count != self._worn[name]:
                    whole = count == STEPS
                    self._places[name].copy_(source if whole else self.solution(name, count))
                    self._worn[name] = count
        return self._scratch

    def cut(self, strategy: Strategy) -> nn.Module:
        """A new network under a strategy, in eval mode."""
        return duplicate(self.view(strategy))

    def solution(self, name: str, count: int) -> Tensor:
        """A weight of which so many fiftieths stay."""
        key = (name, count)
        if key not in self._solutions:
            self._solutions[key], self._errors[key] = self._solved(name, 1 - count / STEPS)
        return self._solutions[key]

    def error(self, name: str, count: int) -> float:
        """Of the layer's output, relative to its energy; of others, of its weights."""
        if (name, count) not in self._errors:
            self.solution(name, count)
        return self._errors[name, count]

    def _solved(self, name: str, level: float) -> tuple[Tensor, float]:
        weight, layer = self._source[name].detach(), self._layers.get(name)
        if layer is not None and layer.name in self._stats:
            stats = self._stats[layer.name]
            found = solve(stats, layer, weight, level, self.pattern, thorough=False)
            return found.weight, found.error
        size = magnitude(weight)
        mask = chosen({name: size}, {name: level}, self.pattern, layouts=self._layouts)[name]
        lost = float(size.square()[~mask].sum() / size.square().sum().clamp(min=1e-30))
        return torch.where(mask, weight, 0), lost

    def errors(
        self, budget: Budget, on_group: Callable[[], object] = lambda: None
    ) -> dict[str, FloatArray]:
        """Error of every group at each of its `Budget.options`.

        Solved for at `KNOWN` counts, in even ratios; in between on lines in logarithms, never
        rising with the count.
        """
        found = {}
        for group, options in zip(budget.graph.decisions, budget.options, strict=True):
            ratios = np.geomspace(options[0], options[-1], KNOWN)
            counts = np.unique(options[np.abs(options[:, None] - ratios).argmin(axis=0)])
            known = np.array([self.error(group.name, int(k)) for k in counts[counts < STEPS]])
            some = counts[counts < STEPS]
            known = np.minimum.accumulate(np.maximum(known, 1e-12))
            curve = np.exp(np.interp(np.log(options), np.log(some), np.log(known)))
            found[group.name] = np.where(options == STEPS, 0.0, curve)
            on_group()
        return found
