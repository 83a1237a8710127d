"""Fused attention: whole heads may go, and nothing within a head."""

import torch
from torch import Tensor

from amc.graph.operators.interpreter import Labeller
from amc.graph.operators.labels import CONSTANT
from amc.graph.operators.operands import Op, Source, Unknown
from amc.graph.operators.product_rules import MIXES


def attention(run: Labeller, op: Op) -> Tensor:
    """scaled_dot_product_attention: queries, keys, values and mask of a head go together.

    Keys and values that several heads share (grouped queries) go with all of these.
    """
    x = [run.tensor(op.given[name]) for name in ("query", "key", "value")]
    heads = {d - op.out.ndim for t in x for d in _before_rows(run, t, op.out.ndim)}
    if len(heads) > 1:
        raise Unknown(MIXES)
    if not heads:
        return _single(run, op, x)
    (axis,) = heads
    count = op.out.shape[axis]
    operands = [*x, *_mask(run, op, axis)]
    joined = run.space.join([_of_heads(run, op, t, axis, count) for t in operands])
    labels = run.space.along(joined.expand(op.out.shape), axis)
    run.meet_heads([labels])
    run.costs(op, labels)
    return joined.expand(op.out.shape)


def _single(run: Labeller, op: Op, x: list[Tensor]) -> Tensor:
    """Attention without heads: channels of queries and keys end in sums, and none may go."""
    if any(run.space.varying(t) for t in (*x, *_mask(run, op, -3))):
        raise Unknown(MIXES)
    run.costs(op)
    return torch.tensor(CONSTANT).expand(op.out.shape)


def _mask(run: Labeller, op: Op, axis: int) -> list[Tensor]:
    """The mask, if there is one; not a parameter or buffer that knows no heads."""
    given = op.given.get("attn_mask")
    if given is None:
        return []
    alike = len(given.shape) < -axis or given.shape[axis] == 1
    return [] if isinstance(given, Source) and alike else [run.tensor(given)]


def _before_rows(run: Labeller, labels: Tensor, ndim: int) -> list[int]:
    """The dimensions of the result, before its rows and columns, along which these vary."""
    new = ndim - labels.ndim
    return [d + new for d in run.space.varying(labels) if d < labels.ndim - 2]


def _of_heads(run: Labeller, op: Op, labels: Tensor, axis: int, count: int) -> Tensor:
    """The labels of the heads, with one row and one column.

    What all heads share must stay, and couples nothing.
    """
    own = labels.shape[axis] if labels.ndim >= -axis else 1
    if own == 1 or not any(d - labels.ndim == axis for d in run.space.varying(labels)):
        run.space.freeze([labels], f"{op.name} gives it to all heads alike{run.place}")
        return torch.tensor(CONSTANT).expand(1, 1)
    shape = [1] * labels.ndim
    shape[axis] = own
    heads = run.space.along(labels, labels.ndim + axis).reshape(shape)
    return heads.repeat_interleave(count // own, dim=axis)
