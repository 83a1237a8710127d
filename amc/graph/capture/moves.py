"""Marks on the entries of a result, carried back to the entries of its operands.

Through operators that only move entries, or treat each by itself; a mark is a number, `UNKNOWN`
where there is none.
"""

import operator
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import Node

UNKNOWN = -1

LARGEST, NUMBERED = 2**26, 2**24
"""Entries of the largest tensor that is marked one by one, and of one whose entries are numbered
for operators that copy."""

Marks: TypeAlias = Tensor | dict[int, Tensor]
"""Of a result, or of some of several results, shaped as they are."""

RESHAPED = frozenset(
    "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as "
    "ravel".split()
)
COMPLEX = frozenset(("view_as_real", "view_as_complex"))
MOVED = frozenset(
    "permute transpose t movedim moveaxis swapaxes swapdims mT numpy_T adjoint expand expand_as "
    "broadcast_to repeat repeat_interleave tile cat concat concatenate stack select slice narrow "
    "chunk split unbind split_with_sizes tensor_split unsafe_chunk flip roll index_select".split()
)
ALONE = frozenset(
    "clone contiguous to _to_copy type_as detach alias dropout dropout_ softmax _softmax "
    "_safe_softmax log_softmax layer_norm rms_norm linalg_vector_norm lift_fresh_copy".split()
)
"""Operators, beside pointwise ones, whose results stay where their operands are."""


def name_of(node: Node) -> str:
    """Name of a node's operator without its overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet.__name__ if packet is not None else node.target)


def is_pointwise(target: Any) -> bool:
    """Whether PyTorch calls an operator so; of those that write in place it forgets some."""
    if torch.Tag.pointwise in getattr(target, "tags", ()):
        return True
    name, overload = str(getattr(target, "__name__", "")).partition(".")[::2]
    other = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return torch.Tag.pointwise in getattr(getattr(other, overload, None), "tags", ())


def passes(node: Node) -> bool:
    """Whether marks go back through an operator."""
    known = RESHAPED | COMPLEX | MOVED | ALONE
    return node.op == "call_function" and (
        node.target is operator.getitem or name_of(node) in known or is_pointwise(node.target)
    )


def carried(node: Node, marks: Marks) -> Iterator[tuple[Node, Marks]]:
    """The operands of an operator that `passes`, with the marks that they get from its result."""
    source, name = node.args[0] if node.args else None, name_of(node)
    if node.target is operator.getitem:
        if isinstance(source, Node) and isinstance(marks, Tensor):
            yield source, {int(node.args[1]): marks}  # type: ignore[arg-type]
    elif name in MOVED:
        for operand in node.all_input_nodes:
            yield from _unmoved(node, operand, marks)
    elif isinstance(marks, Tensor) and isinstance(source, Node):
        if name in RESHAPED | COMPLEX:
            yield from _reshaped(name, source, marks)
        else:
            for operand in node.all_input_nodes:
                yield from _narrowed(operand, marks)


def _reshaped(name: str, source: Node, marks: Tensor) -> Iterator[tuple[Node, Tensor]]:
    """Marks of an operand whose entries stay in their order."""
    if name == "view_as_real":
        yield source, marks[..., 0]
    elif name == "view_as_complex":
        yield source, marks[..., None].expand(source.meta["val"].shape)
    elif marks.numel() <= LARGEST:
        yield source, marks.reshape(source.meta["val"].shape)


def _narrowed(operand: Node, marks: Tensor) -> Iterator[tuple[Node, Tensor]]:
    """Marks of an operand that is broadcast; of those that meet in one entry the largest."""
    value = operand.meta.get("val")
    if not isinstance(value, Tensor):
        return
    small = marks
    while small.ndim > value.ndim:
        small = small.amax(0)
    for d in range(small.ndim):
        if value.shape[d] == 1 < small.shape[d]:
            small = small.amax(d, keepdim=True)
    if small.shape == value.shape:
        yield operand, small


def _unmoved(node: Node, operand: Node, marks: Marks) -> Iterator[tuple[Node, Tensor]]:
    """Marks of an operand whose entries were moved.

    The operator is executed: a view of the operand is written through, and of what copies the
    entries' numbers tell where they went.
    """
    value = operand.meta.get("val")
    if not isinstance(value, Tensor) or value.numel() > LARGEST:
        return
    several = marks if isinstance(marks, dict) else {0: marks}
    if (found := _written(node, operand, several)) is not None:
        yield operand, found
    elif value.numel() <= NUMBERED:
        yield operand, _numbered(node, operand, several)


def _written(node: Node, operand: Node, marks: dict[int, Tensor]) -> Tensor | None:
    """The marks written through views of their operand; None if the operator makes none."""
    if len(node.all_input_nodes) > 1 or node.args[0] is not operand:
        return None
    found = torch.full(operand.meta["val"].shape, UNKNOWN, dtype=torch.int32)
    views = node.target(found, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    views = views if isinstance(views, list | tuple) else [views]
    held = found.untyped_storage().data_ptr()
    if any(0 in v.stride() or v.untyped_storage().data_ptr() != held for v in views):
        return None
    for place, one in marks.items():
        views[place].copy_(one)
    return found


def _numbered(node: Node, operand: Node, marks: dict[int, Tensor]) -> Tensor:
    """The marks brought to where the numbers of entries say that they come from."""
    value = operand.meta["val"]
    numbers = torch.arange(value.numel()).reshape(value.shape)

    def given(other: Node) -> Any:
        held = other.meta.get("val")
        if other is operand:
            return numbers
        return torch.full(held.shape, UNKNOWN) if isinstance(held, Tensor) else held

    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), given)
    moved = node.target(*args, **kwargs)  # type: ignore[operator]
    found = torch.full((value.numel(),), UNKNOWN, dtype=torch.int32)
    for place, one in marks.items():
        where = moved[place] if isinstance(moved, list | tuple) else moved
        own = where >= 0
        found.scatter_reduce_(0, where[own], one[own], "amax")
    return found.reshape(value.shape)
