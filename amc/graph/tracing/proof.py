"""Proof by execution: the shrunk network must equal the masked one, whatever the weights are.

A residual branch whose last norm starts at zero, or a layer scale of 1e-6, would hide a wrong cut;
so the proof runs on a copy with random weights, in 32 bits. Kernels that transform convolutions
(Winograd) round differently for every number of channels, more than others do: outputs that are
near, but not near enough, are compared once more in 64 bits.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.graph.capture.export import Inputs, describe
from amc.graph.capture.observe import Observed, observe
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup
from amc.graph.plan import Plan
from amc.graph.shrink import duplicate, mask, shrink
from amc.graph.tracing.cuts import Trial, cut_plan, fewest

TOLERANCE = 1e-4
"""Largest difference between shrunk and masked outputs, relative to the outputs' scale."""

NEAR, EXACT = 1e-2, 1e-9
"""A difference up to the first may be of rounding; in 64 bits, where it may be up to the second, a
wrong cut still has it."""

WRITTEN = "a size is written in forward"

TOGETHER = "cannot be cut together with the groups before it"


def spared(graph: ChannelGraph, proof: "Proof") -> ChannelGraph:
    """The graph in which groups that cannot go down to a single channel keep two or all."""
    narrow = proof.failing(graph, [fewest])
    if not narrow:
        return graph
    graph = graph.spare(narrow)
    return graph.freeze(proof.failing(graph, [fewest]))


class Proof:
    """Executes cuts of one network.

    Args:
        model: never changed.
        inputs: of one execution.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model, self._inputs, self._tolerance = _prepared(model, inputs)
        self._trains = _runs(training(self._model), self._inputs)
        self._model.eval()

    @cached_property
    def observed(self) -> Observed:
        """What the network does with numbers as long as it is whole."""
        return observe(self._model, self._inputs)

    def observe(self, plan: Plan) -> Observed:
        """What the network does with numbers under a plan."""
        return observe(shrink(self._model, plan), self._inputs)

    def failing(self, graph: ChannelGraph, trials: Sequence[Trial]) -> dict[str, str]:
        """Groups that must not be cut like this, so that all others can be, and why.

        All at once first; halves of what fails after that.
        """
        failed: dict[str, str] = {}
        for trial in trials:
            failed |= self._failing(graph.freeze(failed), trial(graph))
        return failed

    def fits(self, graph: ChannelGraph, counts: Mapping[str, int]) -> bool:
        """Whether the network can be cut like this; groups that are not named stay whole."""
        return not self._objection(graph, [g for g in graph.groups if g.name in counts], counts)

    def against(self, plan: Plan) -> str:
        """What is wrong with the network under a plan; empty when nothing is."""
        small = shrink(self._model, plan)
        try:
            found = tree_leaves(self._inputs.run(small))
            expected = tree_leaves(self._inputs.run(mask(self._model, plan)))
            if self._trains:
                self._inputs.run(training(small))
        except (Exception, SystemExit) as error:  # the user's forward may fail in any way
            return f"{WRITTEN}, the cut network does not run ({describe(error)})"
        pairs = zip(expected, found, strict=False)
        wrong = f"{WRITTEN}, the cut network differs from the masked one"
        if len(found) != len(expected):
            return wrong
        apart = max((_apart(a, b) for a, b in pairs), default=0.0)
        if apart <= self._tolerance:
            return ""
        return "" if apart <= NEAR and self._exact(plan) else wrong

    def _exact(self, plan: Plan) -> bool:
        """Whether the outputs are the same in 64 bits."""
        wide = self._inputs.changed(lambda x: x.double() if x.is_floating_point() else x)
        model = duplicate(self._model).double()
        try:
            found = tree_leaves(wide.run(shrink(model, plan)))
            expected = tree_leaves(wide.run(mask(model, plan)))
        except (Exception, SystemExit):  # the user's forward may know 32 bits only
            return False
        pairs = zip(expected, found, strict=False)
        return max((_apart(a, b) for a, b in pairs), default=0.0) <= EXACT

    def _failing(self, graph: ChannelGraph, counts: Mapping[str, int]) -> dict[str, str]:
        objection = self._objection(graph, graph.decisions, counts)
        if not objection:
            return {}
        failed = self._singled_out(graph, graph.decisions, counts, objection)
        while True:  # what is left may still fail in combination
            rest = [g for g in graph.decisions if g.name not in failed]
            if not self._objection(graph, rest, counts):
                return failed
            last = self._last_straw(graph, rest, counts)
            failed[last.name] = TOGETHER

    def _singled_out(
        self,
        graph: ChannelGraph,
        groups: Sequence[ChannelGroup],
        counts: Mapping[str, int],
        objection: str,
    ) -> dict[str, str]:
        """The groups that fail by themselves, among some that fail together."""
        if len(groups) == 1:
            return {groups[0].name: objection}
        found: dict[str, str] = {}
        for half in (groups[: len(groups) // 2], groups[len(groups) // 2 :]):
            objection = self._objection(graph, half, counts)
            if objection:
                found |= self._singled_out(graph, half, counts, objection)
        return found

    def _last_straw(
        self, graph: ChannelGraph, groups: Sequence[ChannelGroup], counts: Mapping[str, int]
    ) -> ChannelGroup:
        """The last of the shortest run of groups that fails together."""
        low, high = 1, len(groups)
        while low < high:
            middle = (low + high) // 2
            fails = self._objection(graph, groups[:middle], counts)
            low, high = (low, middle) if fails else (middle + 1, high)
        return groups[low - 1]

    def _objection(
        self, graph: ChannelGraph, groups: Sequence[ChannelGroup], counts: Mapping[str, int]
    ) -> str:
        """What is wrong with the network when these groups are cut; empty when nothing is."""
        return self.against(cut_plan(graph, groups, counts)) if groups else ""


def _apart(expected: Any, found: Any) -> float:
    """The largest difference of two outputs, relative to their scale; infinite if not alike."""
    if not isinstance(expected, Tensor):
        return 0.0
    if expected.shape != found.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():
        return 0.0 if bool((expected == found).all()) else math.inf
    scale = max(float(expected.abs().max()), 1e-3)
    apart = float((expected - found).abs().max()) / scale
    return math.inf if math.isnan(apart) else apart


def objection(model: nn.Module, inputs: Inputs, graph: ChannelGraph, plan: Plan) -> str:
    """Why a plan must not be carried out, and by which groups; empty when it can be.

    Args:
        model: never changed.
        inputs: of one execution.
        graph: of the model.
        plan: of the graph.
    """
    proof = Proof(model, inputs)
    why = proof.against(plan)
    if not why:
        return ""
    kept = {name: group.keep for name, group in plan.groups.items()}
    alone = [n for n, keep in kept.items() if proof.against(graph.plan({n: keep}))]
    return f"{', '.join(alone or kept)}: {why}"


def training(model: nn.Module) -> nn.Module:
    """Puts the network in training mode, but for modules that would make its outputs random.

    Some networks execute further layers in training (auxiliary heads); they must run as well.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd):
            module.eval()
    return model


def _prepared(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs, float]:
    """The copy to execute, its inputs, and the tolerance of its data type."""
    generator = torch.Generator().manual_seed(0)
    wide = inputs.changed(lambda x: _widened(_varied(x, generator)))
    for random in (True, False):
        candidate = duplicate(model).eval().float()
        if random:
            _shake(candidate, generator)
        if _runs(candidate, wide):
            return candidate, wide, TOLERANCE
    kinds = [p.dtype for p in model.parameters() if p.is_floating_point()]
    coarse = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    return duplicate(model).eval(), inputs, max(TOLERANCE, 50 * coarse)


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether the network runs and its outputs are finite."""
    try:
        outputs = tree_leaves(inputs.run(model))
    except (Exception, SystemExit):  # the user's forward may fail in any way
        return False
    return all(bool(x.isfinite().all()) for x in outputs if isinstance(x, Tensor))


def _shake(model: nn.Module, generator: torch.Generator) -> None:
    """Makes the weights random, in place: signals keep their scale, few channels are dead."""

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        uniform = torch.rand(like.shape, generator=generator)
        return (low + (high - low) * uniform).to(like)

    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.is_floating_point() or p.ndim == 0:
                continue
            if p.ndim > 1:
                wide = (3 / max(1, p[0].numel())) ** 0.5
                p.copy_(draw(p, -wide, wide))
            else:
                p.copy_(draw(p, 0.0, 0.6) if name.endswith("bias") else draw(p, 0.5, 1.5))
        for module in model.modules():
            if not isinstance(module, nn.modules.batchnorm._NormBase):
                continue
            for statistic, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                if statistic is not None:
                    statistic.copy_(draw(statistic, low, high))


def _varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in place of a constant example, which would hide differences."""
    if not x.is_floating_point() or x.numel() < 2 or bool((x != x.flatten()[0]).any()):
        return x
    return torch.randn(x.shape, generator=generator).to(x)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x
