"""Numbers that depend on the sizes of inputs, written as sizes of tensors at hand."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from amc.exporters.words.literals import literal
from amc.exporters.words.operators import in_parentheses
from amc.exporters.words.unwritable import Unwritable

SYMBOLS = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//",
    operator.truediv: "/", operator.mod: "%", operator.pow: "**",
}  # fmt: skip

FUNCTIONS = {"sym_max": "max", "sym_min": "min", "sym_int": "int", "sym_float": "float"}


class Missing(Exception):
    """A size is wanted of a tensor that is not at hand.

    Attributes:
        node: the tensor; None for any.
    """

    def __init__(self, node: Node | None) -> None:
        super().__init__(node)
        self.node = node


def written_size(node: Node, known: Mapping[Node, str]) -> str:
    """The text of a number.

    Args:
        node: that stands for it.
        known: tensors at hand -> their texts, the ones to be preferred first.

    Raises:
        Missing: a tensor is wanted that is not at hand.
        Unwritable: it is read out of the values of a tensor.
    """
    value: Any = node.meta.get("val")
    if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return literal(value)
    expression = value.node.expr
    if expression.is_number and expression.is_integer:
        return literal(int(expression))
    for other, text in known.items():
        tensor = other.meta.get("val")
        if not isinstance(tensor, Tensor):
            continue
        for dim, size in enumerate(tensor.shape):
            if isinstance(size, torch.SymInt) and size.node.expr == expression:
                return f"{text}.shape[{dim}]"
    target = node.target
    if target is torch.ops.aten.sym_size.int:
        source: Any = node.args[0]
        if source not in known:
            raise Missing(source)
        return f"{known[source]}.shape[{node.args[1]}]"
    return _computed(node, known)


def _computed(node: Node, known: Mapping[Node, str]) -> str:
    target: Any = node.target
    words = [
        written_size(one, known) if isinstance(one, Node) else literal(one) for one in node.args
    ]
    if target in SYMBOLS and len(words) == 2:
        return f"{in_parentheses(words[0])} {SYMBOLS[target]} {in_parentheses(words[1])}"
    if target is operator.neg:
        return f"-{in_parentheses(words[0])}"
    name = getattr(target, "__name__", str(target))
    if name in FUNCTIONS:
        return f"{FUNCTIONS[name]}({', '.join(words)})"
    raise Unwritable(f"forward computes with a number that {name} makes")
