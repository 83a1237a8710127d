"""From a network to its channel graph: export, run once on labels, collect, prove.

`torch.export` gives the ATen operators of one execution in eval mode. They are run on channel
labels; an operator without a rule freezes the channels that reach it. What is found is proven by
executing a cut: the shrunk network must equal the masked one, otherwise groups are frozen.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.graph.attention.following import can_follow, follow_sizes
from amc.graph.attributes import is_attribute
from amc.graph.capture.export import Inputs, count_macs, export
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import Activation, ChannelGroup
from amc.graph.operators.interpreter import Guess, Labeller
from amc.graph.operators.labels import compact
from amc.graph.shrink import duplicate
from amc.graph.tracing.branches import blamed, decided
from amc.graph.tracing.collect import collect
from amc.graph.tracing.cuts import fewest, unevenly
from amc.graph.tracing.fit import check_fit
from amc.graph.tracing.join import partners, unite
from amc.graph.tracing.proof import TOGETHER, WRITTEN, Proof, spared, training
from amc.graph.tracing.walk import label
from amc.runtime.errors import UnsupportedModelError


def trace(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    outputs: Callable[[Any], Any] | None = None,
    heads: bool = True,
) -> ChannelGraph:
    """Finds the channel groups of a network.

    Examples:
        >>> import amc, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
        >>> graph.sizes, graph.macs()
        ({'0': 8}, 12384)
        >>> [group.reason for group in graph.groups if not group.prunable]
        ['network input', 'network output']

    Args:
        model: any module; it is copied and never changed.
        example_inputs: positional inputs of one execution, tensors or containers of them; the
            first tensor's first dimension is the batch.
        example_kwargs: keyword inputs of the same execution.
        outputs: takes of what the network returns what must stay as it is, in eval mode and in
            training mode; without it, all of it stays. Feature maps that nobody reads can then be
            cut like any others.
        heads: whether attention goes by whole heads. If not, what lies within all heads alike may
            go, where softmax and products are written out.

    Returns:
        The graph; groups that must stay whole carry the reason.

    Raises:
        UnsupportedModelError: the network cannot be exported; the message says what stops it.
    """
    check_fit(model)
    inputs = Inputs(example_inputs, dict(example_kwargs or {}), outputs)
    model = _following(model, inputs)
    program = export(duplicate(model).eval(), inputs)  # may leave traces in what it exports
    search = _Search(model, inputs, program, heads)
    graph = search.proven()
    if search.failed and _idle(program):  # layers that only training executes may be why
        trained = _trained(model, inputs)
        other = graph if trained is None else search.proven(trained)
        if _least(other) < _least(graph):
            return other
    return graph


def _following(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The network with sizes that follow when heads go, where forward reads them off its input."""
    if not any(map(can_follow, model.modules())):
        return model
    copy = duplicate(model).eval()
    try:
        before = tree_leaves(inputs.run(copy))
        changed = [follow_sizes(module) for module in copy.modules()]
        after = tree_leaves(inputs.run(copy)) if any(changed) else []
    except (Exception, SystemExit):  # the user's forward may fail in any way; export says how
        return model
    same = len(before) == len(after) and all(map(_equal, before, after))
    return copy.train(model.training) if same else model


def _equal(one: Any, other: Any) -> bool:
    return not isinstance(one, Tensor) or torch.equal(one.nan_to_num(), other.nan_to_num())


class _Search:
    """Looks for what can be cut in programs of one network, and proves it.

    Attributes:
        failed: whether a cut that looked possible turned out not to be.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, program: Any, heads: bool) -> None:
        self._model, self._inputs, self._program = model, inputs, program
        self._heads = heads
        self._proof = Proof(model, inputs)
        self.failed = False

    def proven(self, trained: Any = None) -> ChannelGraph:
        """What can be cut; of attention whose heads cannot go, what is within a head.

        Args:
            trained: the program in training mode, if it executes layers of its own.
        """
        graph, stuck = self._found(trained, () if self._heads else None)
        other = self._found(trained, stuck)[0] if self._heads and stuck else graph
        return other if _least(other) < _least(graph) else graph

    def _found(
        self, trained: Any, without: Collection[str] | None
    ) -> tuple[ChannelGraph, frozenset[str]]:
        """What can be cut, and the attention whose heads must stay.

        Args:
            trained: as above.
            without: attention that does not go by heads; None for all.
        """
        run, proof = Labeller(self._model, self._proof.observed), self._proof
        label(self._program, self._model, run, without)
        if trained is not None:
            run.aside(lambda: label(trained, self._model, run, without))
        graph = self._collected(run)
        failing = proof.failing(graph, unevenly(graph))
        self.failed |= bool(failing)
        while _adopt_guesses(run, [g for g in graph.decisions if g.name in failing]):
            graph = self._collected(run)
            failing = proof.failing(graph, unevenly(graph))
        while together := partners(graph, proof, failing):
            for groups in together:
                unite(run.space, groups)
            graph = self._collected(run)
            failing = proof.failing(graph, unevenly(graph))
        kept = _emptied(graph.freeze(blamed(graph, proof, failing)), run, proof)
        found = _explained(decided(spared(kept, proof), proof), graph, run)
        return replace(found, activations=_activations(found, run)), _stuck(found, run)

    def _collected(self, run: Labeller) -> ChannelGraph:
        return collect(run, self._model, self._inputs.batch, None if run.counted else self._macs)

    @cached_property
    def _macs(self) -> int:
        return count_macs(self._program, self._inputs)


def _idle(program: Any) -> bool:
    """Whether there are parameters that the program never uses."""
    parameters = program.graph_signature.inputs_to_parameters
    return any(not node.users for node in program.graph.nodes if node.name in parameters)


def _trained(model: nn.Module, inputs: Inputs) -> Any:
    """The program of the network in training mode; None when there is none."""
    try:
        return export(training(duplicate(model)), inputs)
    except UnsupportedModelError:
        return None


def _least(graph: ChannelGraph) -> int:
    """MACs that stay when as much as possible goes."""
    return graph.cost.macs(graph.counts({g.name: g.bounds[0] for g in graph.decisions}))


def _emptied(graph: ChannelGraph, run: Labeller, proof: Proof) -> ChannelGraph:
    """The graph in which channels that were put beside others as zeros may go altogether."""
    blank = {root for labels in run.blank for root in run.space.roots(labels).tolist()}
    names = {
        group.name
        for group in graph.decisions
        if not blank.isdisjoint(_roots(run, group))
        and all(
            m.index.size < graph.shapes[m.tensor][m.dim]
            for m in group.members
            if not is_attribute(m.tensor)
        )
    }

    def without(names: Collection[str]) -> ChannelGraph:
        groups = (replace(g, least=0) if g.name in names else g for g in graph.groups)
        return replace(graph, groups=tuple(groups))

    return without(names - proof.failing(without(names), [fewest]).keys()) if names else graph


def _explained(proven: ChannelGraph, found: ChannelGraph, run: Labeller) -> ChannelGraph:
    """The proven graph, in which groups that failed say what was doubtful about them."""
    offered = {group.name for group in found.decisions}
    reasons = {}
    for group in proven.groups:
        if group.name in offered and group.reason.startswith((WRITTEN, TOGETHER)):
            roots = _roots(run, group)
            doubts = (
                reason
                for labels, reason in run.doubts
                if not roots.isdisjoint(run.space.roots(labels).tolist())
            )
            reasons[group.name] = next(doubts, group.reason)
    return replace(
        proven,
        groups=tuple(replace(g, reason=reasons.get(g.name, g.reason)) for g in proven.groups),
    )


def _stuck(graph: ChannelGraph, run: Labeller) -> frozenset[str]:
    """The attention of which no head can go."""
    groups = [g for g in graph.groups if g.unit == "head" and not g.prunable]
    roots = set[int]().union(*(_roots(run, group) for group in groups))
    return frozenset(
        name
        for name, found in run.heads.items()
        if any(not roots.isdisjoint(run.space.roots(x).tolist()) for x in found)
    )


def _activations(graph: ChannelGraph, run: Labeller) -> tuple[Activation, ...]:
    """What a forward pass keeps in memory, and the groups that its size follows."""
    owner = {root: group for group in graph.decisions for root in _roots(run, group)}
    found = []
    for one in run.kept:
        small, channels = compact(one.labels), Counter[str]()
        times = one.bytes_per_entry * one.labels.numel() // max(small.numel(), 1)
        roots, counts = np.unique(run.space.roots(small), return_counts=True)
        for root, count in zip(roots.tolist(), counts.tolist(), strict=True):
            if root in owner:
                channels[owner[root].name] += count * times
        fixed = one.bytes_per_entry * one.labels.numel() - channels.total()
        sizes = {name: total // graph.sizes[name] for name, total in channels.items()}
        found.append(Activation(one.first, one.last, fixed, sizes))
    return tuple(found)


def _roots(run: Labeller, group: ChannelGroup) -> set[int]:
    """The classes of labels that a group is made of."""
    return {
        root
        for member in group.members
        for root in run.space.roots(
            run.space.bound[member.tensor, member.dim][member.index.ravel()]
        ).tolist()
    }


def _adopt_guesses(run: Labeller, groups: list[ChannelGroup]) -> bool:
    """Takes attributes that may hold the sizes of these groups for such; whether there are any."""
    roots = set[int]().union(*(_roots(run, group) for group in groups))
    guesses, left = list[Guess](), list[Guess]()
    for guess in run.guesses:
        touched = not roots.isdisjoint(run.space.roots(guess[1]).tolist())
        (guesses if touched else left).append(guess)
    run.guesses = left
    for name, labels in guesses:
        run.space.bind(name, 0, labels)
    return bool(guesses)
