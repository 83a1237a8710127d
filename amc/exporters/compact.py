"""A quantised program without what a small network's file is full of besides its weights.

In a network of a few thousand channels scales, zero points, names and settings that are the usual
ones weigh a third of the weights. All of it is ONNX as any other: zero points that are zero and
usual attributes may be left out, and a Cast of a constant is carried out when a file is loaded.
"""

from collections.abc import Iterator
from string import ascii_letters
from typing import Any

import numpy as np

SHORT = 16
"""A vector of no more numbers is smaller in 32 bits than in 16 bits with a Cast."""

INEXACT = 0.01
"""Largest error of a scale in 16 bits, as a part of it; usual is 0.0005."""


def compact(program: Any) -> Any:
    """The program in fewer bytes, changed in place; names of inputs and outputs stay.

    Scales and biases have 16 bits afterwards. Apart from their rounding it computes the same.
    """
    graph = program.graph
    _drop_zero_points(graph)
    used = {name for node in graph.node for name in node.input}
    used |= {one.name for one in graph.output} | set(_of_subgraphs(graph))
    kept = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    _drop_usual(graph)
    _halve(graph)
    if not any(True for _ in _of_subgraphs(graph)):
        _rename(graph)
    return program


def _drop_zero_points(graph: Any) -> None:
    """Of weights, whose own type tells the zero point's, where they are zero."""
    from onnx import numpy_helper

    held = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3:
            signed, zero = held.get(node.input[0]), held.get(node.input[2])
            if signed is not None and zero is not None:
                if not numpy_helper.to_array(zero).any():
                    del node.input[2:]


def _drop_usual(graph: Any) -> None:
    """Attributes of convolutions that are what ONNX takes without them."""
    known = {one.name for one in graph.initializer}
    known |= {n.output[0] for n in graph.node if n.input and n.input[0] in known}
    for node in graph.node:
        if node.op_type == "Conv":
            sized = node.input[1] in known  # the kernel's shape is that of the weights
            kept = [one for one in node.attribute if not _usual(one, sized)]
            del node.attribute[:]
            node.attribute.extend(kept)


def _usual(one: Any, sized: bool) -> bool:
    if one.name == "auto_pad":
        return bool(one.s == b"NOTSET")
    if one.name == "group":
        return bool(one.i == 1)
    if one.name in ("dilations", "strides"):
        return set(one.ints) == {1}
    if one.name == "pads":
        return set(one.ints) == {0}
    return sized and one.name == "kernel_shape"


def _halve(graph: Any) -> None:
    """Scales of channels and biases in 16 bits, where these are exact enough."""
    from onnx import TensorProto, helper, numpy_helper

    places = {"DequantizeLinear": 1, "Conv": 2, "Gemm": 2}
    readers: dict[str, list[tuple[str, int]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append((node.op_type, place))
    inside, casts = set(_of_subgraphs(graph)), []
    for one in graph.initializer:
        if one.data_type != TensorProto.FLOAT or len(one.dims) != 1 or one.dims[0] <= SHORT:
            continue
        kinds = {kind for kind, place in readers[one.name] if places.get(kind) == place}
        if one.name in inside or len(kinds) != 1 or len(readers[one.name]) != 1:
            continue
        values = numpy_helper.to_array(one)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        error = np.abs(half.astype(np.float32) - values)
        allowed = np.abs(values) if kinds == {"DequantizeLinear"} else np.abs(values).max()
        if not (np.isfinite(half).all() and (error <= INEXACT * allowed).all()):
            continue
        casts.append(
            helper.make_node("Cast", [f"{one.name}.half"], [one.name], to=TensorProto.FLOAT)
        )
        one.CopyFrom(numpy_helper.from_array(half, f"{one.name}.half"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _of_subgraphs(graph: Any) -> Iterator[str]:
    """Names that graphs inside of nodes read, which may be of the graph outside."""
    for node in graph.node:
        for one in node.attribute:
            for inner in ([one.g] if one.HasField("g") else []) + list(one.graphs):
                yield from (name for n in inner.node for name in n.input)
                yield from _of_subgraphs(inner)


def _rename(graph: Any) -> None:
    """Gives every tensor inside a name of one or two letters, and nodes none."""
    known: dict[str, str] = {"": ""}
    known |= {one.name: one.name for one in (*graph.input, *graph.output)}
    names = (name for name in _names() if name not in known)

    def short(name: str) -> str:
        return known[name] if name in known else known.setdefault(name, next(names))

    for one in graph.initializer:
        one.name = short(one.name)
    for node in graph.node:
        node.ClearField("name")
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]


def _names() -> Iterator[str]:
    words = [""]
    while True:
        words = [word + letter for word in words for letter in ascii_letters]
        yield from words
