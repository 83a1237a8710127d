"""From labels to a channel graph: classes of labels with the same members become groups."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor, nn

from amc.graph.attributes import is_attribute
from amc.graph.channel_graph import ChannelGraph
from amc.graph.groups import ChannelGroup, Layer, Member, Product
from amc.graph.operators.interpreter import Labeller
from amc.graph.operators.labels import CONSTANT, compact
from amc.graph.operators.operands import LayerCall
from amc.graph.shrink import tensors


def collect(run: Labeller, model: nn.Module, batch: int, total_macs: int | None) -> ChannelGraph:
    """The channel graph of an execution on labels.

    Args:
        run: after the execution.
        model: whose tensors were labelled.
        batch: samples in the execution.
        total_macs: of the whole execution; None when the layers are all there is.
    """
    _settle_entries(run)
    state = tensors(model)
    names = _layer_names(run.calls)
    places = _Places(run.calls, names)
    classes = _classes(run)
    reasons = run.space.frozen_roots()
    added = _found_in(run, run.space.added)
    heads = _found_in(run, chain.from_iterable(run.heads.values()))
    by_signature: dict[tuple[Any, ...], list[int]] = {}
    for root in sorted(classes):
        signature = tuple((key, len(found)) for key, found in sorted(classes[root].items()))
        by_signature.setdefault((signature, reasons.get(root, "")), []).append(root)
    asides = _Asides(run)
    found = [
        (
            replace(
                _group(signature, roots, reason, classes, places, asides),
                residual=not added.isdisjoint(roots),
                unit="channel" if heads.isdisjoint(roots) else "head",
            ),
            roots,
        )
        for (signature, reason), roots in by_signature.items()
    ]
    found += [(group, []) for group in _unlisted(run, classes)]
    found.sort(key=lambda f: places.when(f[0]))
    groups = _unique([group for group, _ in found])
    owner = {root: g for g, (_, roots) in zip(groups, found, strict=True) for root in roots}
    layers = _layers(run.calls, names, groups, state, batch)
    products = _products(run, owner)
    counted = sum(layer.positions * int(np.prod(state[layer.weight].shape)) for layer in layers)
    counted += sum(product.macs for product in products)
    return ChannelGraph(
        layers=layers,
        products=products,
        groups=tuple(groups),
        shapes={name: tuple(t.shape) for name, t in state.items()}
        | {name: (len(x),) for (name, _), x in run.space.bound.items() if is_attribute(name)},
        parameters=frozenset(name for name, _ in model.named_parameters()),
        batch=batch,
        other_macs=0 if total_macs is None else (total_macs - counted) // batch,
        total_params=sum(p.numel() for p in model.parameters()),
    )


def _found_in(run: Labeller, labels: Iterable[Tensor]) -> set[int]:
    """The classes of these labels."""
    return {int(root) for x in labels for root in np.unique(run.space.roots(compact(x)))}


def _settle_entries(run: Labeller) -> None:
    """Parameters used as activations: find the one dimension along which their channels lie."""
    space = run.space
    for name, labels in run.entries.items():
        axes = space.varying(labels)
        if len(axes) == 1:
            space.bind(name, axes[0], space.along(labels, axes[0]))
        elif labels.numel() > 1:
            space.freeze([labels], f"{name}: channels lie along {len(axes)} dimensions")
    for (tensor, _), labels in list(space.bound.items()):
        if tensor in run.opaque:
            space.freeze([labels], run.opaque[tensor])


def _classes(run: Labeller) -> dict[int, dict[tuple[str, int], list[int]]]:
    """Per root: (tensor, dim) -> slices of that tensor in this class."""
    classes: dict[int, dict[tuple[str, int], list[int]]] = {}
    for key, labels in run.space.bound.items():
        for position, root in enumerate(run.space.roots(labels).tolist()):
            if root != CONSTANT:
                classes.setdefault(root, {}).setdefault(key, []).append(position)
    return classes


def _layer_names(calls: list[LayerCall]) -> dict[str, str]:
    """Weight name -> layer name, in execution order."""
    return {c.weight: c.weight.removesuffix(".weight") for c in calls}


def _unlisted(run: Labeller, classes: dict[int, Any]) -> list[ChannelGroup]:
    """Layers of which no tensor is in any group, so that the table says why they stay whole."""
    return [
        ChannelGroup(name, len(labels), (), (), (), reason)
        for name, (labels, reason) in run.unseen.items()
        if classes.keys().isdisjoint(run.space.roots(labels).tolist())
    ]


def _products(run: Labeller, owner: dict[int, ChannelGroup]) -> tuple[Product, ...]:
    """Operators without weights, each with the groups that its cost follows."""

    def axis(labels: Tensor) -> tuple[int, dict[str, int]]:
        groups = [owner[r] for r in run.space.roots(labels).tolist() if r in owner]
        met = Counter(group.name for group in groups)
        return len(labels), {g.name: met[g.name] // g.size for g in groups}

    found = (Product(call.macs, tuple(map(axis, call.axes))) for call in run.products)
    return tuple(p for p in found if p.macs % math.prod(size for size, _ in p.axes) == 0)


class _Asides:
    """What no layer writes or reads, and why."""

    def __init__(self, run: Labeller) -> None:
        self._blank = {int(root) for x in run.blank for root in run.space.roots(x)}
        self._met = {int(root) for x in run.met for root in run.space.roots(x)}
        self._trained = run.only_trained

    def met(self, roots: list[int]) -> bool:
        """Whether a product of activations reads the channels."""
        return not self._met.isdisjoint(roots)

    def reason(self, roots: list[int], members: tuple[Member, ...]) -> str:
        """Why channels must stay that no layer writes; empty where nothing special is known."""
        if not self._blank.isdisjoint(roots):
            return "reads a constant"
        return "only training executes it" if {m.tensor for m in members} <= self._trained else ""


class _Places:
    """Where layers write and read: (weight, dimension) -> layer; depthwise layers do neither."""

    def __init__(self, calls: list[LayerCall], names: dict[str, str]) -> None:
        self.order = {name: i for i, name in enumerate(names.values())}
        wide = [c for c in calls if c.kind != "depthwise"]
        self.written = {(c.weight, c.out_dim): names[c.weight] for c in wide}
        self.read = {(c.weight, c.in_dim): names[c.weight] for c in wide}
        # the weight of a transposed convolution holds the outputs of one of its groups
        self.repeats = {
            (c.weight, c.out_dim): c.groups if "transpose" in c.kind else 1 for c in wide
        }

    def when(self, group: ChannelGroup) -> int:
        """When the group is first read; when it is last written, if no layer reads it."""
        if group.readers:
            return self.order[group.readers[0]]
        return self.order[group.writers[-1]] if group.prunable else len(self.order)

    def among(self, keys: list[tuple[str, int]], where: dict[tuple[str, int], str]) -> list[str]:
        """Layers at these places, in execution order."""
        return sorted({where[k] for k in keys if k in where}, key=self.order.__getitem__)


def _group(
    signature: tuple[Any, ...],
    roots: list[int],
    reason: str,
    classes: dict[int, dict[tuple[str, int], list[int]]],
    places: _Places,
    asides: "_Asides",
) -> ChannelGroup:
    keys = [key for key, _ in signature]
    roots = sorted(roots, key=lambda r: [classes[r][k] for k in keys])
    members = tuple(
        Member(tensor, dim, np.array([classes[r][tensor, dim] for r in roots], dtype=np.int64))
        for tensor, dim in keys
    )
    writers = tuple(places.among(keys, places.written))
    readers = tuple(places.among(keys, places.read))
    if not reason and not writers:
        reason = asides.reason(roots, members)
    if not reason and len(roots) < 2:
        reason = "has a single channel"
    if not reason and not writers:
        reason = "no layer writes it"
    if not reason and not readers and not asides.met(roots):
        reason = "no layer reads it"
    name, width = "input", 1
    if writers:
        name = writers[0]
        first = next(m for m in members if places.written.get((m.tensor, m.dim)) == name)
        width = int(first.index.shape[1]) * places.repeats[first.tensor, first.dim]
    elif reason != "network input":
        name = f"{readers[0]}:input" if readers else members[0].tensor
    return ChannelGroup(name, len(roots), members, writers, readers, reason, width=width)


def _unique(groups: list[ChannelGroup]) -> list[ChannelGroup]:
    """Gives groups that share their first writer (chunks of its output) names of their own."""
    seen: dict[str, int] = {}
    named = []
    for group in sorted(groups, key=lambda g: not g.prunable):
        seen[group.name] = seen.get(group.name, 0) + 1
        suffix = f"#{seen[group.name]}" if seen[group.name] > 1 else ""
        named.append((group, group.name + suffix))
    order = {id(g): i for i, g in enumerate(groups)}
    return [
        replace(g, name=name) for g, name in sorted(named, key=lambda pair: order[id(pair[0])])
    ]


def _layers(
    calls: list[LayerCall],
    names: dict[str, str],
    groups: list[ChannelGroup],
    state: dict[str, Tensor],
    batch: int,
) -> tuple[Layer, ...]:
    out_group = {(m.tensor, m.dim): g.name for g in groups for m in g.members}
    layers: dict[str, Layer] = {}
    for call in calls:
        shape = state[call.weight].shape
        before = layers.get(call.weight)
        positions = call.positions + (before.positions if before else 0)
        into, out = shape[call.in_dim], shape[call.out_dim]
        if call.kind == "depthwise":  # one slice of the weight per channel, plus the multiplier
            into, out = call.groups, into * out
        elif "transpose" in call.kind:
            out *= call.groups
        else:
            into *= call.groups
        layers[call.weight] = Layer(
            names[call.weight], call.weight, call.bias, call.kind, call.in_dim, call.out_dim,
            in_channels=into, out_channels=out,
            macs=positions * shape.numel() // batch, positions=positions,
            calls=1 + (before.calls if before else 0),
            height=call.height, width=call.width, stride=call.stride, kernel=call.kernel,
            groups=call.groups, out_group=out_group.get((call.weight, call.out_dim), ""),
        )  # fmt: skip
    return tuple(layers.values())
