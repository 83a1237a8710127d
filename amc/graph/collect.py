"""From labels to a channel graph: classes of labels with the same members become groups."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from amc.graph.attributes import is_attribute
from amc.graph.groups import ChannelGraph, ChannelGroup, Layer, Member
from amc.graph.interpreter import Labeller, LayerCall
from amc.graph.labels import CONSTANT, compact
from amc.graph.surgery import tensors


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
    added = {int(root) for x in run.space.added for root in np.unique(run.space.roots(compact(x)))}
    by_signature: dict[tuple[Any, ...], list[int]] = {}
    for root in sorted(classes):
        signature = tuple((key, len(found)) for key, found in sorted(classes[root].items()))
        by_signature.setdefault((signature, reasons.get(root, "")), []).append(root)
    groups = [
        replace(
            _group(signature, roots, reason, classes, places),
            residual=not added.isdisjoint(roots),
        )
        for (signature, reason), roots in by_signature.items()
    ]
    groups = _unique(
        sorted(groups, key=lambda g: places.order[g.readers[0]] if g.readers else len(names))
    )
    layers = _layers(run.calls, names, groups, state, batch)
    counted = sum(layer.positions * int(np.prod(state[layer.weight].shape)) for layer in layers)
    return ChannelGraph(
        layers=layers,
        groups=tuple(groups),
        shapes={name: tuple(t.shape) for name, t in state.items()}
        | {name: (len(x),) for (name, _), x in run.space.bound.items() if is_attribute(name)},
        parameters=frozenset(name for name, _ in model.named_parameters()),
        batch=batch,
        other_macs=0 if total_macs is None else (total_macs - counted) // batch,
        total_params=sum(p.numel() for p in model.parameters()),
    )


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

    def among(self, keys: list[tuple[str, int]], where: dict[tuple[str, int], str]) -> list[str]:
        """Layers at these places, in execution order."""
        return sorted({where[k] for k in keys if k in where}, key=self.order.__getitem__)


def _group(
    signature: tuple[Any, ...],
    roots: list[int],
    reason: str,
    classes: dict[int, dict[tuple[str, int], list[int]]],
    places: _Places,
) -> ChannelGroup:
    keys = [key for key, _ in signature]
    roots = sorted(roots, key=lambda r: [classes[r][k] for k in keys])
    members = tuple(
        Member(tensor, dim, np.array([classes[r][tensor, dim] for r in roots], dtype=np.int64))
        for tensor, dim in keys
    )
    writers = tuple(places.among(keys, places.written))
    readers = tuple(places.among(keys, places.read))
    if not reason and len(roots) < 2:
        reason = "has a single channel"
    if not reason and not (writers and readers):
        reason = "no layer writes it" if not writers else "no layer reads it"
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
