"""Operators that treat every entry by itself, and writes: what meets lives and dies together."""

import torch
from torch import Tensor

from amc.graph.operators.interpreter import Labeller
from amc.graph.operators.labels import CONSTANT, compact
from amc.graph.operators.operands import Op, Source, Unknown, Value


def pointwise(run: Labeller, op: Op) -> Value:
    """Channels that meet in one entry must live and die together."""
    operands = [a for a in (*op.args, *op.kwargs.values()) if isinstance(a, Tensor | Source)]
    if not operands:
        return constant(run, op)
    if op.name.endswith("_") and isinstance(operands[0], Source):
        raise Unknown("writes into a constant")
    labels = _unspread(run, op, [run.tensor(o) for o in operands])
    if op.name in ("add", "add_", "sub", "sub_"):
        _mark_residual(run, operands, labels)
    _mark_sizes(run, labels)
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


def _mark_sizes(run: Labeller, labels: list[Tensor]) -> None:
    """Numbers as wide as the channels that they meet: an attribute may hold how many."""
    varying = [(x, d) for x in labels for d in run.space.varying(x)]
    for x, d in varying:
        if any(o.shape[d] > 1 and bool((o.select(d, 0) == CONSTANT).all()) for o in labels):
            run.perhaps_sized(run.space.along(x, d))


def _unspread(run: Labeller, op: Op, labels: list[Tensor]) -> list[Tensor]:
    """What is broadcast over the channels of another operand must stay, and couples nothing."""
    ranked = [x[(None,) * (op.outs[0].ndim - x.ndim)] for x in labels]
    varying = {d for x in ranked for d in run.space.varying(x)}
    varying = varying & set(run.at_heads) or varying  # a bias may differ within a head as well
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
    """Whether a map stands in every slice: it is broadcast, or has been expanded already.

    Channels that have been joined to one class are still as many: their labels differ.
    """
    if labels.shape[dim] == 1:
        return True
    small = compact(labels).ravel()
    return bool((small == small[:1]).all()) and not bool((small == CONSTANT).all())


def same(run: Labeller, op: Op) -> Value:
    """The result is the first operand."""
    given = op.args[0]
    if isinstance(given, Source):
        kept = op.name in ("to", "contiguous") and op.fakes[0][0].dtype == op.out.dtype
        dims = tuple(range(len(given.shape)))
        return given if kept or given.dims else Source(given.name, given.shape, dims)
    return run.tensor(given)


def dropout(run: Labeller, op: Op) -> Value:
    """Does nothing in eval mode."""
    if op.given["train"] and not run.trains:
        raise Unknown("is random although the network is in eval mode")
    return same(run, op)


def constant(run: Labeller, op: Op) -> Value:
    """The result belongs to no channel."""
    return op.packed(tuple(torch.tensor(CONSTANT).expand(out.shape) for out in op.outs))


def alike(run: Labeller, op: Op) -> Tensor:
    """zeros_like and its kind: numbers, as many as the operand has."""
    x = run.tensor(op.args[0])
    whole = x.shape == op.out.shape and not isinstance(op.args[0], Source)
    return x if whole else torch.tensor(CONSTANT).expand(op.out.shape)


def filled(run: Labeller, op: Op) -> Tensor:
    """The entries are overwritten with numbers; their channels stay what they are."""
    if isinstance(op.args[0], Source):
        raise Unknown("writes into a constant")
    return run.tensor(op.args[0])


def copied(run: Labeller, op: Op) -> Value:
    """copy_: what is written over is as wide as what is written."""
    target, source = (run.tensor(op.given[name]) for name in ("self", "src"))
    if source.numel() == 1:
        return filled(run, op)
    if target.shape == source.shape and bool((target == CONSTANT).any()):
        for dim in run.space.varying(source):
            run.perhaps_sized(run.space.along(source, dim), below=True)
    return pointwise(run, op)


def picked_out(run: Labeller, op: Op) -> Value:
    """index_put: entries that a mask of the same shape picks, or rows in space, are written."""
    x, value = run.tensor(op.given["self"]), op.given["values"]
    where = list(op.given["indices"])
    written = isinstance(value, Tensor) and value.numel() == 1
    if written and len(where) == 1 and where[0] is not None and where[0].shape == x.shape:
        return run.space.join([x, where[0]])
    places = {d for d, index in enumerate(where) if index is not None}
    if not written or places & set(run.space.varying(x)):
        raise Unknown("writes at positions written in forward")
    return x
