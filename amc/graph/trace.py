"""From a network to its channel graph: export, run once on labels, collect, prove.

`torch.export` gives the ATen operators of one execution in eval mode. They are run on channel
labels; an operator without a rule freezes the channels that reach it. What is found is proven by
executing a cut: the shrunk network must equal the masked one, otherwise groups are frozen.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from amc.errors import UnsupportedModelError
from amc.graph.groups import ChannelGraph, ChannelGroup, Layer, Member
from amc.graph.interpreter import Labeller, LayerCall, Op, Source, Unknown, Value
from amc.graph.labels import CONSTANT
from amc.graph.rules import execute
from amc.graph.surgery import mask, shrink, tensors

TOLERANCE = 1e-4
"""Largest difference between shrunk and masked outputs, relative to the outputs' scale."""


def trace(model: nn.Module, example_inputs: tuple[Any, ...]) -> ChannelGraph:
    """Finds the channel groups of a network.

    Args:
        model: any module; it is copied and never changed.
        example_inputs: positional inputs of one execution; the first tensor's first dimension is
            the batch.

    Returns:
        The graph; groups that must stay whole carry the reason.

    Raises:
        UnsupportedModelError: the network cannot be exported; the message says what stops it.
    """
    model = copy.deepcopy(model).eval()
    program = _export(model, example_inputs)
    run = _run(program, _first_names(model))
    batch = _batch(example_inputs)
    graph = _collect(run, model, batch, _count(program, example_inputs))
    return _prove(graph, model, example_inputs)


def _export(model: nn.Module, example_inputs: tuple[Any, ...]) -> Any:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, example_inputs)
    except Exception as error:  # export raises dozens of types; every one means "not exportable"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = lines[0] if lines else type(error).__name__
        user = [x for x in lines if x.startswith('File "') and "/torch/" not in x]
        where = f" at {user[-1]}" if user else ""
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be traced by torch.export{where}: {what}"
        ) from error


def _count(program: Any, example_inputs: tuple[Any, ...]) -> int:
    """MACs of the exported operators; the model itself may take fused paths, uncounted."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        program.module()(*example_inputs)
    return counter.get_total_flops() // 2


def _batch(example_inputs: tuple[Any, ...]) -> int:
    leaves = [x for x in tree_flatten(example_inputs)[0] if isinstance(x, Tensor) and x.ndim]
    return int(leaves[0].shape[0]) if leaves else 1


def _first_names(model: nn.Module) -> dict[str, str]:
    """Name of a tensor -> the first of its names; tied tensors have several."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in tensors(model).items()}


def _run(program: Any, first_names: Mapping[str, str]) -> Labeller:
    """Executes the exported graph on labels."""
    run = Labeller()
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values: dict[str, Value] = {}

    def operands(node_args: Any) -> Any:
        return torch.fx.node.map_arg(node_args, lambda n: values[n.name])

    for node in program.graph.nodes:
        out = node.meta.get("val")
        if node.op == "placeholder":
            if node.name in named:
                values[node.name] = Source(first_names[named[node.name]], out.shape)
            else:
                constant = node.name in signature.inputs_to_lifted_tensor_constants
                reason = "meets a tensor made in forward" if constant else "network input"
                values[node.name] = run.fixed(out, reason)
        elif node.op == "output":
            run.give_up(operands(node.args), "network output")
        elif node.op == "call_function":
            args, kwargs = operands(tuple(node.args)), operands(dict(node.kwargs))
            op = Op(node.target, args, kwargs, out)
            try:
                values[node.name] = execute(run, op)
            except Unknown as reason:
                why = f"{op.name} {reason}{_line(node)}"
                run.give_up([args, kwargs], why)
                values[node.name] = run.fixed(out, why)
        else:  # get_attr: a sub-graph of a higher-order operator
            values[node.name] = None
    return run


def _line(node: Any) -> str:
    """Where in the user's code the operator stands."""
    frames = [x.strip() for x in (node.meta.get("stack_trace") or "").splitlines()]
    user = [x for x in frames if x.startswith('File "') and "/torch/nn/" not in x]
    if not user:
        return ""
    file, line = user[-1].split(",")[:2]
    return f" ({file[6:-1].rsplit('/', 1)[-1]}:{line.split()[-1]})"


def _collect(run: Labeller, model: nn.Module, batch: int, total_macs: int) -> ChannelGraph:
    """Classes of labels with the same members become groups."""
    _settle_entries(run)
    state = tensors(model)
    names = _layer_names(run.calls)
    classes = _classes(run)
    reasons = run.space.frozen_roots()
    by_signature: dict[tuple[Any, ...], list[int]] = {}
    for root in sorted(classes):
        signature = tuple((key, len(found)) for key, found in sorted(classes[root].items()))
        by_signature.setdefault((signature, reasons.get(root, "")), []).append(root)
    groups = [
        _group(signature, roots, reason, classes, run.calls, names)
        for (signature, reason), roots in by_signature.items()
    ]
    order = {name: i for i, name in enumerate(names.values())}
    first = {id(g): min((order[r] for r in g.readers), default=len(order)) for g in groups}
    groups = _unique(sorted(groups, key=lambda g: first[id(g)]))
    layers = _layers(run.calls, names, groups, state, batch)
    counted = sum(layer.positions * int(np.prod(state[layer.weight].shape)) for layer in layers)
    return ChannelGraph(
        layers=layers,
        groups=tuple(groups),
        shapes={name: tuple(t.shape) for name, t in state.items()},
        parameters=frozenset(name for name, _ in model.named_parameters()),
        batch=batch,
        other_macs=(total_macs - counted) // batch,
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


def _group(
    signature: tuple[Any, ...],
    roots: list[int],
    reason: str,
    classes: dict[int, dict[tuple[str, int], list[int]]],
    calls: list[LayerCall],
    names: dict[str, str],
) -> ChannelGroup:
    keys = [key for key, _ in signature]
    roots = sorted(roots, key=lambda r: [classes[r][k] for k in keys])
    members = tuple(
        Member(tensor, dim, np.array([classes[r][tensor, dim] for r in roots], dtype=np.int64))
        for tensor, dim in keys
    )
    wide = [c for c in calls if c.kind != "depthwise"]
    writers = tuple(dict.fromkeys(names[c.weight] for c in wide if (c.weight, c.out_dim) in keys))
    readers = tuple(dict.fromkeys(names[c.weight] for c in wide if (c.weight, c.in_dim) in keys))
    if not reason and len(roots) < 2:
        reason = "has a single channel"
    if not reason and not (writers and readers):
        reason = "no layer writes it" if not writers else "no layer reads it"
    name = writers[0] if writers else "input"
    return ChannelGroup(name, len(roots), members, writers, readers, reason)


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
        ChannelGroup(name, g.size, g.members, g.writers, g.readers, g.reason)
        for g, name in sorted(named, key=lambda pair: order[id(pair[0])])
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
        transposed = call.in_dim == 0
        layers[call.weight] = Layer(
            names[call.weight], call.weight, call.bias, call.kind, call.in_dim, call.out_dim,
            in_channels=shape[call.in_dim] * (1 if transposed else call.groups),
            out_channels=shape[call.out_dim] * (call.groups if transposed else 1),
            macs=positions * shape.numel() // batch, positions=positions,
            calls=1 + (before.calls if before else 0),
            height=call.height, width=call.width, stride=call.stride, kernel=call.kernel,
            groups=call.groups, out_group=out_group.get((call.weight, call.out_dim), ""),
        )  # fmt: skip
    return tuple(layers.values())


def _prove(graph: ChannelGraph, model: nn.Module, example_inputs: tuple[Any, ...]) -> ChannelGraph:
    """Cuts for real and compares with the masked network; freezes the groups that fail.

    All groups at once first; only when that fails, one by one.
    """
    if not graph.decisions or _holds(graph, model, example_inputs, graph.decisions):
        return graph
    failed = {
        g.name: "the cut network does not run or differs: a size is written in forward"
        for g in graph.decisions
        if not _holds(graph, model, example_inputs, (g,))
    }
    frozen = graph.freeze(failed)
    if not frozen.decisions or _holds(frozen, model, example_inputs, frozen.decisions):
        return frozen
    return frozen.freeze(
        {g.name: "only some cuts together can be executed" for g in frozen.decisions}
    )


def _holds(
    graph: ChannelGraph,
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    groups: tuple[ChannelGroup, ...],
) -> bool:
    rng = np.random.default_rng(0)
    keep = {
        g.name: rng.permutation(g.size)[: max(1, g.size - max(1, g.size // 3))] for g in groups
    }
    plan = graph.plan(keep)
    with torch.no_grad():
        expected = tree_flatten(mask(model, plan)(*example_inputs))[0]
        try:
            found = tree_flatten(shrink(model, plan)(*example_inputs))[0]
        except Exception:  # the user's forward may fail in any way; then this cut is impossible
            return False
    return all(_close(a, b) for a, b in zip(expected, found, strict=True))


def _close(expected: Any, found: Any) -> bool:
    if not isinstance(expected, Tensor):
        return True
    if expected.shape != found.shape:
        return False
    if not expected.is_floating_point():
        return bool((expected == found).all())
    if not expected.numel():
        return True
    scale = max(float(expected.abs().max()), 1e-3)
    return bool((expected - found).abs().max() <= TOLERANCE * scale)
