"""How long an execution keeps its tensors: views of one, and writes into it, are that one.

The values that `torch.export` leaves at its nodes share storages where tensors of the execution
do: a ``reshape`` is a view or a copy, as strides have it.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.fx import Node

UNCHANGED = {
    torch.ops.aten.dropout.default, torch.ops.aten.feature_dropout.default,
    torch.ops.aten.alpha_dropout.default, torch.ops.aten.feature_alpha_dropout.default,
}  # fmt: skip
"""Operators that hand on what they are given, not a copy; the values at their nodes do not say."""


class Lives:
    """First and last operator of every tensor, by the order in which they are told."""

    def __init__(self) -> None:
        self._now = 0
        self._same: dict[int, int] = {}
        self._makers: dict[int, tuple[Node, int | None]] = {}
        self._spans: dict[int, tuple[int, int]] = {}

    def next(self) -> None:
        """The next operator begins."""
        self._now += 1

    def use(self, nodes: Iterable[Node]) -> None:
        """The present operator makes or reads these."""
        for node in nodes:
            for place, tensor in _tensors(node):
                key = self._key(node, tensor)
                self._makers.setdefault(key, (node, place))
                self._spans[key] = self._spans.get(key, (self._now, 0))[0], self._now

    def given(self, inputs: Iterable[Node]) -> None:
        """These were there before the first operator."""
        for node in inputs:
            for place, tensor in _tensors(node):
                key = self._key(node, tensor)
                self._makers[key] = node, place
                self._spans[key] = 0, self._spans.get(key, (0, 0))[1]

    def spans(self) -> Iterator[tuple[Node, int | None, int, int]]:
        """Of every tensor: its node, its place if the node makes several, first and last."""
        for key, (node, place) in self._makers.items():
            yield node, place, *self._spans[key]

    def _key(self, node: Node, tensor: Tensor) -> int:
        key = _storage(tensor)
        if key not in self._same:
            self._same[key] = key
            if node.op == "call_function" and node.target in UNCHANGED and not _trains(node):
                source = node.all_input_nodes[0]
                self._same[key] = self._key(source, source.meta["val"])
        return self._same[key]


def shares(one: Node, other: Node) -> bool:
    """Whether a tensor of the one node is a view of one of the other's."""
    there = {_storage(tensor) for _, tensor in _tensors(other)}
    return any(_storage(tensor) in there for _, tensor in _tensors(one))


def _trains(node: Node) -> bool:
    """Whether a dropout drops."""
    return bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("train", True))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(node: Node) -> list[tuple[int | None, Tensor]]:
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return [(None, value)]
    several = value if isinstance(value, tuple | list) else ()
    return [(place, one) for place, one in enumerate(several) if isinstance(one, Tensor)]
