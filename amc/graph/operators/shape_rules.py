"""Operators that move entries, or take some of them: applied to the labels as they are."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from amc.graph.operators.interpreter import Labeller
from amc.graph.operators.labels import CONSTANT, compact, uniform
from amc.graph.operators.operands import Op, Source, Unknown, Value


def movement(run: Labeller, op: Op) -> Value:
    """Runs the operator on the labels themselves."""
    first = op.args[0]
    if isinstance(first, Source) and op.name in REORDERED:
        reordered = first.moved(op)
        if reordered is not None:
            return reordered
    if op.name == "view_as_real":
        moved = run.tensor(first)[..., None].expand(op.out.shape)
    elif op.name == "view_as_complex":
        real, imaginary = run.tensor(first).unbind(-1)
        run.space.union(real, imaginary)
        moved = real
    elif (
        "view" in op.name or "reshape" in op.name
    ):  # of stride-0 views, which only reshape accepts
        shape = op.args[1].shape if op.name.endswith("_as") else op.args[1]
        if not isinstance(shape, list | tuple):
            raise Unknown("reinterprets the data type")
        moved = run.tensor(op.args[0]).reshape(list(shape))
    elif op.name == "repeat_interleave" and not isinstance(op.args[1], int):
        raise Unknown("repeats every channel a different number of times")
    else:
        operands = [run.operands(a) for a in op.args]
        if op.name in CONCATENATED:
            operands[0] = _labelled(run, operands[0], int(op.given["dim"]))
        moved = op.target(*operands, **op.kwargs)
    moved = run.space.single_axis(uniform(moved), *run.at_heads, _inferred(op))
    for dim in run.space.varying(moved) if op.name in SHAPED else ():
        run.perhaps_sized(run.space.along(moved, dim), place=(dim, moved.ndim))
    return moved


def _inferred(op: Op) -> int | None:
    """The dimension of the result that was written as -1."""
    if op.name not in SHAPED:
        return None
    sizes = next((a for a in op.args[1:] if isinstance(a, list | tuple)), ())
    offset = int(op.given["dim"]) % op.args[0].ndim if op.name == "unflatten" else 0
    return offset + list(sizes).index(-1) if -1 in sizes else None


SHAPED = ("view", "reshape", "_unsafe_view", "unflatten")
"""Movement whose sizes are often numbers in the code."""

REORDERED = (
    "t", "transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "mT", "numpy_T",
    "adjoint", "unsqueeze", "expand",
)  # fmt: skip
"""Movement that leaves a parameter a parameter, of which slices can be taken."""

CONCATENATED = ("cat", "concat", "concatenate")


def _labelled(run: Labeller, operands: list[Tensor], dim: int) -> list[Tensor]:
    """Numbers that are put beside channels become channels that no layer writes."""
    axis = dim % operands[0].ndim
    if not any(axis in run.space.varying(x) for x in operands):
        return operands
    shape = [1] * operands[0].ndim
    shape[axis] = -1
    return [
        run.written(x.shape[axis]).reshape(shape).expand(x.shape)
        if x.numel() and bool((compact(x) == CONSTANT).all())
        else x
        for x in operands
    ]


def parts(run: Labeller, op: Op) -> Value:
    """chunk, split, unbind: equal parts along the channels must stay equally long.

    Parts whose sizes are written in the code need attributes that hold them (`attributes`).
    """
    x, dim = run.tensor(op.given["self"]), int(op.given.get("dim", 0))
    found = op.target(x, *op.args[1:], **op.kwargs)
    if dim % x.ndim not in run.space.varying(x):
        return tuple(uniform(p) for p in found)
    if len({p.shape for p in found}) == 1:
        for part in found[1:]:
            run.space.union(found[0], part)
        if op.name != "unbind":
            for channels in (found[0], x):  # the code may divide the number of all channels
                run.perhaps_sized(run.space.along(channels, dim % x.ndim))
    else:
        sizes = op.given.get("split_sizes", op.given.get("split_size"))
        labels = [run.space.along(p, dim % x.ndim) for p in found]
        several = [part for part in labels if len(part) > 1]
        if isinstance(sizes, list | tuple) and several and run.sized(*several):
            single = [part for part in labels if len(part) == 1]
            run.space.freeze(single, f"{op.name} takes out a single channel{run.place}")
        else:
            _tile(run, op, x, dim % x.ndim, [len(part) for part in labels], PIECES)
            for part in (*labels, run.space.along(x, dim % x.ndim)):
                run.perhaps_sized(part)
    return tuple(uniform(p) for p in found)


PIECES = "cuts parts of unequal size out of the channels"
POSITIONS = "takes channels at positions written in forward"


def _tile(run: Labeller, op: Op, x: Tensor, dim: int, bounds: list[int], reason: str) -> None:
    """Joins equal parts of the channels, of the largest size that all bounds are a multiple of.

    Bounds that are read off a shape (``x[:, : x.shape[1] // 2]``) stay between whole parts.

    Raises:
        Unknown: parts of a single channel; the reason is why the channels must stay.
    """
    channels = run.space.along(x, dim)
    size = math.gcd(len(channels), *bounds)
    if size < 2:
        raise Unknown(reason)
    tiles = channels.reshape(-1, size)
    run.space.union(tiles[:1].expand_as(tiles), tiles)
    run.doubt(channels, f"{op.name} {reason}")


def glu(run: Labeller, op: Op) -> Value:
    """The first half of the channels is gated by the second."""
    x, dim = run.tensor(op.given["self"]), int(op.given["dim"])
    return run.space.join(list(x.chunk(2, dim)))


def shuffle(run: Labeller, op: Op) -> Value:
    """channel_shuffle: its groups must stay equally long."""
    x = run.tensor(op.given["self"])
    first, *others = x.chunk(int(op.given["groups"]), 1)
    for other in others:
        run.space.union(first, other)
    return movement(run, op)


def positions(run: Labeller, op: Op) -> Value:
    """slice, select, roll: the positions are written in forward; fine except along channels."""
    x = run.tensor(op.given["self"])
    given = op.given["dim"] if "dim" in op.given else op.given["dims"]
    dims = {int(d) % x.ndim for d in (given if isinstance(given, list | tuple) else [given])}
    dims = dims or set(range(x.ndim))  # roll without dimensions
    if op.name in ("slice", "narrow") and x.shape == op.out.shape:
        return x
    if dims & set(run.space.varying(x)):
        if op.name == "flip":
            flipped: Tensor = op.target(x, *op.args[1:])
            return uniform(flipped)
        if op.name in ("slice", "narrow"):
            return _slice(run, op, x, dims.pop())
        raise Unknown(POSITIONS)
    small = x
    for d in dims:
        small = small.narrow(d, 0, 1)
    return (small.squeeze(*dims) if op.name == "select" else small).expand(op.out.shape)


def _slice(run: Labeller, op: Op, x: Tensor, dim: int) -> Tensor:
    """A range of channels, if its ends follow a cut.

    They may be attributes of the module, or a part of the number of channels.
    """
    size, step = x.shape[dim], int(op.given.get("step", 1))
    start, end = _ends(op, size)
    labels = run.space.along(x, dim)
    written = [r for r in (labels[:start], labels[end:]) if len(r)]
    if step > 1:
        if size % step or start >= step or end < size:
            raise Unknown(POSITIONS)
        rows = labels.reshape(-1, step)
        run.space.union(rows[:, :1].expand_as(rows), rows)
    elif not run.sized(*_as_written(op, labels, start, end)):
        if not all(_is_seam(labels, bound) for bound in {start, end} - {0, size}):
            _tile(run, op, x, dim, [start, end], POSITIONS)
        for part in (*written, labels[start:end], labels):
            run.perhaps_sized(part)
    taken: Tensor = op.target(x, *op.args[1:], **op.kwargs)
    return uniform(taken)


def _is_seam(labels: Tensor, bound: int) -> bool:
    """Whether channels that were written end here, and entries begin that were not, or before."""
    return bool((labels[bound - 1] == CONSTANT) != (labels[bound] == CONSTANT))


def _ends(op: Op, size: int) -> tuple[int, int]:
    """The first channel of a range, and the one behind its last."""
    given = op.given
    start = int(given["start"] or 0)
    start = max(0, start + size if start < 0 else start)
    end = start + int(given["length"]) if "length" in given else given["end"]
    end = size if end is None else int(end)
    return start, min(size, end + size if end < 0 else end)


def _as_written(op: Op, labels: Tensor, start: int, end: int) -> list[Tensor]:
    """The ranges of channels whose sizes are the numbers in the code."""
    if "length" in op.given:
        return [r for r in (labels[:start], labels[start:end]) if len(r)]
    first, last = int(op.given["start"] or 0), op.given["end"]
    before = labels[:start] if first > 0 else labels[start:] if first < 0 else labels[:0]
    last = len(labels) if last is None else int(last)
    behind = labels[end:] if last < 0 else labels[:end] if last < len(labels) else labels[:0]
    return [r for r in (before, behind) if len(r)]


def indexed(run: Labeller, op: Op) -> Tensor:
    """x[..., rows]: entries at given places in space, or rows of a table that is a parameter."""
    x, indices = run.tensor(op.given["self"]), list(op.given["indices"])
    places = {d for d, i in enumerate(indices) if i is not None}
    if places & set(run.space.varying(x)):
        if not isinstance(op.given["self"], Source):
            raise Unknown(POSITIONS)
        x = _alike(run, x, places)
    first = [None if i is None else torch.zeros(i.shape, dtype=torch.long) for i in indices]
    taken: Tensor = op.target(x, first)
    return uniform(taken)


def _alike(run: Labeller, x: Tensor, dims: Iterable[int]) -> Tensor:
    """The labels of a parameter of which no slice along these dimensions can go by itself."""
    for d in dims:
        run.space.union(x.narrow(d, 0, 1).expand(x.shape), x)
        x = x.narrow(d, 0, 1).expand(x.shape)
    return x


def gathered(run: Labeller, op: Op) -> Tensor:
    """Entries along a dimension of space, at places that may differ between channels (gather)."""
    x, places = run.tensor(op.given["self"]), run.tensor(op.given["index"])
    dim, varying = int(op.given["dim"]) % x.ndim, run.space.varying(x)
    if dim in varying or any(x.shape[d] != op.out.shape[d] for d in varying):
        raise Unknown(POSITIONS)
    small = x[tuple(slice(None) if d in varying else slice(0, 1) for d in range(x.ndim))]
    return run.space.join([small.expand(op.out.shape), places])


def scattered(run: Labeller, whole: Tensor, view: Callable[[Any], Any], labels: Tensor) -> Tensor:
    """The labels of a value after a part of it was written.

    Args:
        run: the execution.
        whole: labels of the value before.
        view: takes the part out of it.
        labels: of what is written.

    Raises:
        Unknown: the part does not share its memory.
    """
    if whole.numel() > LARGEST:
        raise Unknown("writes into too large a tensor to follow")
    full = whole.clone(memory_format=torch.contiguous_format)
    part = view(full)
    if part.untyped_storage().data_ptr() != full.untyped_storage().data_ptr():
        raise Unknown("writes into a copy")
    part.copy_(torch.where(labels >= 0, labels, part))
    result = run.space.single_axis(uniform(full))
    for dim in run.space.varying(result):
        run.perhaps_sized(run.space.along(result, dim), below=True)
    return result


LARGEST = 2**24
"""Entries of the largest tensor whose writes are followed."""


def replaced(run: Labeller, op: Op) -> Tensor:
    """slice_scatter, select_scatter: a copy in which a part is another value."""
    whole, source = run.tensor(op.given["self"]), run.tensor(op.given["src"])
    places = op.args[2:]
    take = torch.ops.aten.slice.Tensor if "slice" in op.name else torch.ops.aten.select.int

    def part(labels: Any) -> Any:
        return take(labels, *places, **op.kwargs)

    old = part(whole)
    return scattered(run, whole, part, run.space.join([old, source.expand(old.shape)]))
