"""A quantised program without what a small network's file is full of besides its weights.

In a network of a few thousand channels zero points, names and notes weigh as much as the weights.
Zero points that are zero may be left out (ONNX, QuantizeLinear and DequantizeLinear), and names of
tensors inside of the program are nobody's business. What it computes stays the same, bit for bit.
"""

from collections.abc import Iterator
from string import ascii_letters
from typing import Any


def compact(program: Any) -> Any:
    """The same program in fewer bytes, changed in place; names of inputs and outputs stay."""
    from onnx import numpy_helper

    graph = program.graph
    held = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3:
            signed = held.get(node.input[0])  # a weight; its own type tells the zero point's
            zero = held.get(node.input[2])
            if signed is not None and zero is not None:
                if not numpy_helper.to_array(zero).any():
                    del node.input[2:]
    used = {name for node in graph.node for name in node.input}
    used |= {one.name for one in graph.output} | set(_of_subgraphs(graph))
    kept = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    if not any(True for _ in _of_subgraphs(graph)):
        _rename(graph)
    return program


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
