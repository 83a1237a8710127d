"""The network in onnxruntime, exported once: strategies exchange its weights.

An export takes seconds, a session milliseconds. What of the program depends on channel counts is
found by comparing it with the program of a cut network: sizes of weights, the groups of depthwise
convolutions, shapes that a flatten writes down. Where that does not explain every difference, or
the outputs are not those of the cut network, every strategy is exported for itself.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import nn

from amc.exporters.onnx_program import Run, exported, opened
from amc.graph.arrays import IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan
from amc.graph.shrink import duplicate, shrink
from amc.runtime import feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.runtime.user_code import one_line

FOLDED = "_bias"
"""Behind the name of a weight: the bias that batch norm becomes when it is folded."""

INTEGERS = (6, 7)
"""Types of `onnx.TensorProto`: INT32, INT64."""

Dims = dict[str, tuple[int, ...]]


class Exported:
    """Programs of a network after any strategy.

    Args:
        model: never changed.
        graph: what can be cut from it.
        sample: what it is fed with.
        threads: of the runtime.

    Raises:
        AmcError: the network cannot be exported, or the runtime refuses it.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, sample: Feed, threads: int) -> None:
        self._model, self._graph, self._threads = _with_biases(model), graph, threads
        self._sample = sample
        try:
            self._program = exported(self._model, sample)
            self.exchanges = self._understood()
        except Exception as error:  # exporter and runtime may fail in any way on a network
            raise AmcError(
                f"onnxruntime cannot run this network: {one_line(_root(error))[:300]}; "
                "--runtime torch can"
            ) from None

    def __call__(self, counts: IntArray) -> Run:
        """A forward pass of the network with these channels, [T]."""
        plan = first_channels(self._graph, counts)
        if self.exchanges:
            return opened(self._exchanged(plan), self._sample, self._threads)
        return opened(self._cut(plan), self._sample, self._threads)

    def _cut(self, plan: Plan) -> Any:
        return exported(shrink(self._model, plan), self._sample)

    def _understood(self) -> bool:
        """Whether exchanged weights make the program of every strategy; prepares for it."""
        if not self._graph.decisions:
            return True
        plans = [first_channels(self._graph, _part(self._graph, ratio)) for ratio in (0.6, 0.4)]
        try:
            if not self._generalised(plans[0]):
                return False
            run = opened(self._exchanged(plans[1]), self._sample, self._threads)
            with torch.inference_mode():
                cut = feed.call(shrink(self._model, plans[1]).eval(), self._sample)
        except Exception:  # as above; whole exports are tried then
            return False
        found, wanted = feed.leaves(run()), feed.leaves(cut)  # type: ignore[arg-type]
        return len(found) == len(wanted) and all(
            np.shape(a) == tuple(b.shape) and np.allclose(a, b.cpu().numpy(), 1e-2, 1e-3)
            for a, b in zip(found, wanted, strict=True)
        )

    def _generalised(self, plan: Plan) -> bool:
        """Whether the program of a cut network differs in nothing that is not understood.

        Sizes that a flatten wrote down are left to the runtime from here on.
        """
        from onnx import numpy_helper

        whole, cut = self._program.graph, self._cut(plan).graph
        del whole.value_info[:]  # sizes of activations
        if [_form(n) for n in whole.node] != [_form(n) for n in cut.node]:
            return False
        expected = self._sizes(plan)
        there = {one.name: one for one in cut.initializer}
        for one in whole.initializer:
            if one.name not in there:
                return False
            if tuple(there[one.name].dims) != expected[one.name]:
                return False
            if one.data_type not in INTEGERS:
                continue
            a, b = numpy_helper.to_array(one), numpy_helper.to_array(there[one.name])
            differ = np.flatnonzero(a != b)
            if len(differ) > 1 or (len(differ) and -1 in a):
                return False
            if len(differ):
                free = a.copy()
                free[differ] = -1
                one.CopyFrom(numpy_helper.from_array(free, one.name))
        return True

    def _cuts(self, plan: Plan) -> dict[str, list[tuple[int, tuple[int, ...]]]]:
        """Dimensions and kept slices of every initializer."""
        cuts: dict[str, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        outputs = {layer.weight: layer.out_dim for layer in self._graph.layers}
        for one in plan.cuts:
            cuts[one.tensor].append((one.dim, one.keep))
            if one.dim == outputs.get(one.tensor):
                cuts[one.tensor + FOLDED].append((0, one.keep))
        return cuts

    def _sizes(self, plan: Plan) -> Dims:
        cuts, found = self._cuts(plan), Dims()
        for one in self._program.graph.initializer:
            dims = list(one.dims)
            for dim, keep in cuts.get(one.name, ()):
                dims[dim] = len(keep)
            found[one.name] = tuple(dims)
        return found

    def _exchanged(self, plan: Plan) -> Any:
        """The program with the slices of its weights that stay."""
        import onnx
        from onnx import numpy_helper

        cuts, sizes, source = self._cuts(plan), self._sizes(plan), self._program
        before = {one.name: one.dims for one in source.graph.initializer}
        made = onnx.ModelProto(ir_version=source.ir_version, opset_import=source.opset_import)
        made.functions.extend(source.functions)
        made.graph.name = source.graph.name
        made.graph.input.extend(source.graph.input)
        made.graph.output.extend(_named(one) for one in source.graph.output)
        for node in source.graph.node:
            made.graph.node.append(node)
            for one in made.graph.node[-1].attribute:
                if one.name == "group" and one.i > 1 and node.input[1] in sizes:
                    first, second, *_ = before[node.input[1]]
                    if second == 1 or one.i == first:  # depthwise: a group is a channel
                        one.i = one.i * sizes[node.input[1]][0] // first
        for one in source.graph.initializer:
            if one.name not in cuts:
                made.graph.initializer.append(one)
                continue
            values = numpy_helper.to_array(one)
            for dim, keep in cuts[one.name]:
                values = values.take(keep, axis=dim)
            made.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(values), one.name)
            )
        return made


def first_channels(graph: ChannelGraph, counts: IntArray) -> Plan:
    """The plan that keeps the first channels of every group: which ones, no clock can tell."""
    kept = zip(graph.decisions, counts.tolist(), strict=True)
    return graph.plan({group.name: range(count) for group, count in kept})


def _part(graph: ChannelGraph, ratio: float) -> IntArray:
    """About this part of every group, and never all of one that need not stay whole."""
    counts = []
    for t, group in enumerate(graph.decisions):
        least, most = group.bounds
        fewer = min(round(group.size * ratio) + t % 3, group.size - 1)
        counts.append(min(max(fewer, least), most))
    return np.array(counts, dtype=np.int64)


def _with_biases(model: nn.Module) -> nn.Module:
    """A copy with biases as training leaves them: zeros, exporters leave out."""
    copy = duplicate(model).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, held in copy.named_parameters():
            if name.endswith("bias") and held.is_floating_point() and not held.any():
                values = torch.empty(held.shape).uniform_(-0.1, 0.1, generator=generator)
                held.copy_(values.to(held))
    return copy


def _form(node: Any) -> tuple[Any, ...]:
    """A node without what channel counts decide."""
    kept = [one.SerializeToString() for one in node.attribute if one.name != "group"]
    return node.op_type, tuple(node.input), tuple(node.output), tuple(sorted(kept))


def _named(value: Any) -> Any:
    """An output without its sizes."""
    import onnx

    kind = value.type.tensor_type.elem_type
    return onnx.helper.make_tensor_value_info(value.name, kind, None)


def _root(error: BaseException) -> BaseException:
    """The first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
