"""Operators without weights: element-wise, movement, spatial, reductions."""

import torch
from torch import Tensor

from amc.graph.interpreter import Labeller, Op, Source, Unknown, Value
from amc.graph.labels import CONSTANT, uniform


def pointwise(run: Labeller, op: Op) -> Value:
    """Channels that meet in one entry must live and die together."""
    operands = [a for a in (*op.args, *op.kwargs.values()) if isinstance(a, Tensor | Source)]
    if not operands:
        return constant(run, op)
    labels = [run.tensor(o) for o in operands]
    in_place = op.name.endswith("_")
    if in_place and (isinstance(operands[0], Source) or bool((labels[0] == CONSTANT).any())):
        raise Unknown("writes into a constant")
    labels = _unspread(run, op, labels)
    if op.name in ("add", "add_", "sub", "sub_"):
        _mark_residual(run, operands, labels)
    return run.space.join(labels)


def _mark_residual(run: Labeller, operands: list[Tensor | Source], labels: list[Tensor]) -> None:
    """Remembers the channels in which two activations (not a parameter) are added up."""
    streams = [
        x
        for o, x in zip(operands, labels, strict=True)
        if isinstance(o, Tensor) and run.space.varying(x)
    ]
    if len(streams) > 1:
        run.space.added += streams


def _unspread(run: Labeller, op: Op, labels: list[Tensor]) -> list[Tensor]:
    """What is broadcast over the channels of another operand must stay, and couples nothing."""
    ranked = [x[(None,) * (op.outs[0].ndim - x.ndim)] for x in labels]
    varying = {d for x in ranked for d in run.space.varying(x)}
    spread = [any(_repeats(x, d) for d in varying) for x in ranked]
    run.space.freeze(
        [x for x, wide in zip(ranked, spread, strict=True) if wide],
        f"{op.name} applies it to all channels alike{run.place}",
    )
    return [
        torch.tensor(CONSTANT).expand(x.shape) if wide else x
        for x, wide in zip(ranked, spread, strict=True)
    ]


def _repeats(labels: Tensor, dim: int) -> bool:
    """Whether the same channels stand in every slice: broadcast, or expanded already."""
    first = labels.narrow(dim, 0, 1)
    if labels.shape[dim] == 1:
        return True
    alike = labels.stride(dim) == 0 or bool((labels == first).all())
    return alike and not bool((first == CONSTANT).all())


def same(run: Labeller, op: Op) -> Value:
    """The result is the first operand."""
    return run.tensor(op.args[0])


def dropout(run: Labeller, op: Op) -> Value:
    """Does nothing in eval mode."""
    if op.given["train"]:
        raise Unknown("is random although the network is in eval mode")
    return same(run, op)


def constant(run: Labeller, op: Op) -> Value:
    """The result belongs to no channel."""
    return op.packed(tuple(torch.tensor(CONSTANT).expand(out.shape) for out in op.outs))


def movement(run: Labeller, op: Op) -> Value:
    """Runs the operator on the labels themselves."""
    if "view" in op.name or "reshape" in op.name:  # of stride-0 views, which only reshape accepts
        shape = op.args[1].shape if op.name.endswith("_as") else op.args[1]
        if not isinstance(shape, list | tuple):
            raise Unknown("reinterprets the data type")
        moved = run.tensor(op.args[0]).reshape(list(shape))
    elif op.name == "repeat_interleave" and not isinstance(op.args[1], int):
        raise Unknown("repeats every channel a different number of times")
    else:
        moved = op.target(*(run.operands(a) for a in op.args), **op.kwargs)
    moved = run.space.single_axis(uniform(moved), _inferred(op))
    for dim in run.space.varying(moved) if op.name in SHAPED else ():
        run.perhaps_sized(run.space.along(moved, dim))
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
            run.perhaps_sized(run.space.along(found[0], dim % x.ndim))
    else:
        sizes = op.given.get("split_sizes", op.given.get("split_size"))
        labels = [run.space.along(p, dim % x.ndim) for p in found]
        if not isinstance(sizes, list | tuple) or not run.sized(*labels):
            raise Unknown("cuts parts of unequal size out of the channels")
    return tuple(uniform(p) for p in found)


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
        if op.name == "slice":
            return _slice(run, op, x, dims.pop())
        raise Unknown("takes channels at positions written in forward")
    small = x
    for d in dims:
        small = small.narrow(d, 0, 1)
    return (small.squeeze(*dims) if op.name == "select" else small).expand(op.out.shape)


def _slice(run: Labeller, op: Op, x: Tensor, dim: int) -> Tensor:
    """A range of channels, if its ends are attributes of the module that can follow a cut."""
    given, size = op.given, x.shape[dim]
    start, end = int(given["start"] or 0), given["end"]
    end = size if end is None else min(int(end), size)
    labels = run.space.along(x, dim)
    before = labels[:start] if start > 0 else labels[start:] if start < 0 else None
    behind = labels[:end] if 0 <= end < size else labels[end:] if end < 0 else None
    written = [r for r in (before, behind) if r is not None]
    if int(given["step"]) != 1 or not run.sized(*written):
        raise Unknown("takes channels at positions written in forward")
    taken: Tensor = op.target(x, *op.args[1:], **op.kwargs)
    return uniform(taken)


def spatial(run: Labeller, op: Op) -> Value:
    """Pooling and resampling: every channel by itself; only dimensions behind it change."""
    x = run.tensor(op.args[0])
    shape = op.outs[0].shape
    first = next((d for d in range(x.ndim) if x.shape[d] != shape[d]), x.ndim)
    first = min(first, 2 if x.ndim > 2 else x.ndim)
    if any(d >= first for d in run.space.varying(x)):
        raise Unknown("channels are laid out in space")
    small = x[tuple(slice(None) if d < first else slice(0, 1) for d in range(x.ndim))]
    return op.packed(tuple(small.expand(out.shape) for out in op.outs))


def pad(run: Labeller, op: Op) -> Value:
    """Spatial padding keeps the channels; zero channels that are added belong to none."""
    x, out = run.tensor(op.given["self"]), op.out
    padded = [d for d in range(x.ndim) if x.shape[d] != out.shape[d]]
    if not set(padded) & set(run.space.varying(x)):
        return x[tuple(slice(0, 1) if d in padded else slice(None) for d in range(x.ndim))].expand(
            out.shape
        )
    if op.given.get("mode", "constant") != "constant":
        raise Unknown("pads channels by mirroring")
    amounts = op.given["pad"] if "pad" in op.given else op.given["padding"]
    return uniform(torch.nn.functional.pad(x, list(amounts), value=CONSTANT))


def reduction(run: Labeller, op: Op) -> Value:
    """mean, sum, max, softmax: over space the channels stay; over channels they are mixed."""
    if "other" in op.given:  # the greater of two tensors
        return pointwise(run, op)
    x, over = run.tensor(op.given["self"]), op.given.get("dim")
    if over is None or over == []:
        over = list(range(x.ndim))
    dims = {int(d) % x.ndim for d in (over if isinstance(over, list | tuple) else [over])}
    if dims & set(run.space.varying(x)):
        raise Unknown("mixes channels")
    small = x
    for d in sorted(dims, reverse=True):
        small = small.narrow(d, 0, 1)
        if op.outs[0].ndim < x.ndim:
            small = small.squeeze(d)
    return op.packed(tuple(small.expand(out.shape) for out in op.outs))


def mixes(run: Labeller, op: Op) -> Value:
    """Every result depends on several channels in a way that no cut can follow."""
    raise Unknown("mixes channels")


def nothing(run: Labeller, op: Op) -> Value:
    """Checks that leave no value behind."""
    return None
