"""Attention in an exported program: along which dimensions of its tensors the heads lie.

A view that splits channels into heads and the entries of a head does not say which of the two can
go; the attention at its end does: whole heads. Every attention marks the entries of its queries,
keys and values with the head that they belong to, and the marks go back to the views.

Attention is ``scaled_dot_product_attention``, or two products of activations with a softmax in
between.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from amc.graph.capture.moves import Marks, carried, name_of, passes

FUSED = "scaled_dot_product_attention"
PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum", "linalg_matmul")
SOFTMAX = ("softmax", "_softmax", "_safe_softmax")

ODD = (RuntimeError, IndexError, TypeError, ValueError, AttributeError, KeyError)
"""What an operator in an odd form may raise; then nothing is known of it."""

Terms = list[tuple[Node, str]]
"""Operands of a product, with a letter for each of their dimensions."""


@dataclass(frozen=True)
class Heads:
    """The attention of a program.

    Attributes:
        axes: result of an operator -> dimensions along which heads of attention lie.
        owners: operators that are attention, or a product of one -> the name of the attention.
    """

    axes: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    owners: dict[Node, str] = field(default_factory=dict)


def find_heads(
    graph: Graph, given: Collection[str], without: Collection[str] | None = ()
) -> Heads:
    """Where the heads are.

    Args:
        graph: of ATen operators.
        given: names of the placeholders that are parameters and buffers.
        without: names of attention along whose heads nothing is to lie; None for all attention.
    """
    found, marks = Heads(), dict[Node, Marks]()
    for node in graph.nodes:
        try:
            found.owners.update(dict.fromkeys(_products(node, given), node.name))
        except ODD:
            continue
    told = {n for n, name in found.owners.items() if without is not None and name not in without}
    for node in reversed(graph.nodes):
        try:
            for operand, more in _sources(node, marks.pop(node, None), found, told):
                marks[operand] = _merged(marks.get(operand), more)
        except ODD:
            continue
    return found


def _sources(
    node: Node, marks: Marks | None, found: Heads, told: Collection[Node]
) -> Iterator[tuple[Node, Marks]]:
    """Marks for the operands of an operator: its own if it is told, or those of its result."""
    if node in told:
        yield from _own(node)
    if marks is None:
        return
    if isinstance(marks, Tensor) and (axes := _varying(marks)):
        found.axes[node] = axes
    if passes(node) and node not in found.owners:
        yield from carried(node, marks)


def _products(node: Node, given: Collection[str]) -> Iterable[Node]:
    """The operators of the attention that this one is, or that its softmax is in the middle of."""
    if node.op != "call_function":
        return ()
    if name_of(node) == FUSED:
        return (node,)
    if name_of(node) not in SOFTMAX:
        return ()
    before = [p for p in _reached(node, lambda n: n.all_input_nodes) if _of_two(p, given)]
    after = [p for p in _reached(node, lambda n: n.users) if _of_two(p, given)]
    return (*before, *after) if before and after else ()


def _reached(start: Node, steps: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """The first products on all ways from a node."""
    seen, left, found = {start}, [start], list[Node]()
    while left:
        for node in steps(left.pop()):
            if node in seen:
                continue
            seen.add(node)
            if node.op == "call_function" and name_of(node) in PRODUCTS:
                found.append(node)
            elif passes(node):
                left.append(node)
    return found


def _of_two(product: Node, given: Collection[str]) -> bool:
    """Whether both operands of a product are activations."""
    terms, _ = _terms(product)
    return bool(terms) and all(_is_made(operand, given) for operand, _ in terms)


def _is_made(node: Node, given: Collection[str]) -> bool:
    """Whether a value is more than a parameter in another form."""
    seen, left = {node}, [node]
    while left:
        one = left.pop()
        if one.op == "placeholder" and one.name not in given:
            return True
        if one.op == "call_function" and not passes(one):
            return True
        left += [n for n in one.all_input_nodes if n not in seen]
        seen.update(one.all_input_nodes)
    return False


def _own(node: Node) -> Iterator[tuple[Node, Tensor]]:
    """Marks of the operands of attention: which head every entry belongs to."""
    terms, out = _terms(node)
    if name_of(node) == FUSED:
        heads, others = set(out[:-2]), terms
    else:
        heads, others = set(terms[0][1]) & set(terms[1][1]) & set(out), terms[:2]
    sizes = dict[str, int]()
    for operand, letters in reversed(others):  # those of the queries count
        sizes |= {x: n for x, n in zip(letters, _shape(operand), strict=True) if n > 1}
    order = [x for x in out if x in heads]
    count = [sizes.get(x, 1) for x in order]
    numbers = torch.arange(prod(count), dtype=torch.int32).reshape(count)
    for operand, letters in others:
        shape = _shape(operand)
        own = {x: n for x, n in zip(letters, shape, strict=True) if x in heads}
        if any(1 < n != sizes[x] for x, n in own.items()):  # fewer heads, each used several times
            marks = torch.arange(prod(own.values()), dtype=torch.int32)
            marks = marks.reshape(list(own.values()))
            inside = [x for x in letters if x in heads]
        else:
            inside = [x for x in order if x in own]
            marks = numbers[tuple(slice(0, own.get(x, 1)) for x in order)]
            marks = marks.reshape([own[x] for x in inside])
            marks = marks.permute([inside.index(x) for x in letters if x in heads])
        places = tuple(slice(None) if x in heads else None for x in letters)
        yield operand, marks[places].expand(shape)


def _terms(node: Node) -> tuple[Terms, str]:
    """The operands of an attention or a product, and the letters of the result."""
    given: list[Any] = [*node.args, *node.kwargs.values()]
    if name_of(node) == "einsum":
        operands = list(given[1])
        return _lettered(str(given[0]).replace(" ", ""), operands)
    operands = [x for x in given if isinstance(x, Node)]
    batch = ascii_letters[: len(node.meta["val"].shape) - 2]
    if name_of(node) == FUSED:
        rows = ("xy", "zy", "zw", "xz")
        pairs = list(zip(operands, rows, strict=False))
    else:
        pairs = list(zip(operands[-2:], ("xy", "yz"), strict=False))
    sizes = [len(_shape(x)) - 2 for x, _ in pairs]
    if min(sizes) < 0:
        return [], ""
    terms = [(x, batch[len(batch) - n :] + own) for n, (x, own) in zip(sizes, pairs, strict=True)]
    return terms, batch + ("xw" if name_of(node) == FUSED else "xz")


def _lettered(equation: str, operands: list[Node]) -> tuple[Terms, str]:
    """The same of an einsum of two operands."""
    inputs, arrow, out = equation.partition("->")
    written = inputs.split(",")
    if not arrow or len(operands) != 2 or len(written) != 2:
        return [], ""
    spare = "".join(x for x in ascii_letters if x not in equation)
    pairs = list(zip(operands, written, strict=True))
    sizes = [len(_shape(x)) - len(w.replace("...", "")) for x, w in pairs]
    dots = spare[: max(sizes)]
    terms = [
        (x, w.replace("...", dots[len(dots) - n :]))
        for (x, w), n in zip(pairs, sizes, strict=True)
    ]
    return terms, out.replace("...", dots)


def _shape(node: Node) -> list[int]:
    return list(node.meta["val"].shape)


def _merged(one: Marks | None, other: Marks) -> Marks:
    """Both: what is known of an entry from either."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one | other
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.where(one >= 0, one, other)
    return other


def _varying(marks: Tensor) -> tuple[int, ...]:
    """The dimensions along which there are several heads."""
    small = marks[tuple(slice(0, 1) if s == 0 else slice(None) for s in marks.stride())]
    top = int(small.max()) + 1 if small.numel() else 0
    least = torch.where(small < 0, top, small)
    return tuple(
        d
        for d in range(marks.ndim)
        if small.shape[d] > 1 and bool((small.amax(d) > least.amin(d)).any())
    )
