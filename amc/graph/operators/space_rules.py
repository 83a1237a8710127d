"""Operators that are local in space: channels pass through, each by itself."""

from typing import Any

import torch
from torch import Tensor

from amc.graph.operators.interpreter import Labeller
from amc.graph.operators.labels import uniform
from amc.graph.operators.operands import Op, Unknown, Value


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
    """Spatial padding keeps the channels; channels that are added are numbers of forward.

    How many are added may be an attribute of the module, or the difference of two.
    """
    x, out = run.tensor(op.given["self"]), op.out
    padded = [d for d in range(x.ndim) if x.shape[d] != out.shape[d]]
    wide = set(padded) & set(run.space.varying(x))
    if not wide:
        return x[tuple(slice(0, 1) if d in padded else slice(None) for d in range(x.ndim))].expand(
            out.shape
        )
    if op.given.get("mode", "constant") != "constant":
        raise Unknown("pads channels by mirroring")
    amounts = list(op.given["pad"] if "pad" in op.given else op.given["padding"])
    (dim,) = wide  # labels vary along one dimension
    before, behind = amounts[2 * (x.ndim - 1 - dim) :][:2]
    if min(before, behind) < 0:
        raise Unknown("cuts off channels at positions written in forward")
    channels = run.space.along(x, dim)
    added = [run.written(n) for n in (before, behind)]
    grown = torch.cat([added[0], channels, added[1]])
    if not any(run.perhaps_sized(labels) for labels in added if len(labels)):
        run.perhaps_sized(channels)
        run.perhaps_sized(grown)
    shape = [1] * x.ndim
    shape[dim] = len(grown)
    return grown.reshape(shape).expand(out.shape)


def unfold(run: Labeller, op: Op) -> Tensor:
    """im2col: every channel becomes as many as its window has pixels."""
    x = run.tensor(op.args[0])
    axis = x.ndim - 3
    channels = _alone(run, x, axis)
    window = op.out.shape[axis] // len(channels)
    shape = (-1, *[1] * (op.out.ndim - 1 - axis))
    return channels.repeat_interleave(window).reshape(shape).expand(op.out.shape)


def fold(run: Labeller, op: Op) -> Tensor:
    """col2im: the pixels of a channel's window are laid out in space again."""
    x = run.tensor(op.args[0])
    axis = x.ndim - 2
    pixels = _alone(run, x, axis).reshape(op.out.shape[axis], -1)
    run.space.union(pixels[:, :1].expand_as(pixels), pixels)
    return pixels[:, 0].reshape(-1, 1, 1).expand(op.out.shape)


def sampled(run: Labeller, op: Op) -> Tensor:
    """grid_sample: every channel is read at the same places."""
    channels = _alone(run, run.tensor(op.given["input"]), 1)
    run.give_up(op.given["grid"], f"{op.name} reads positions from it{run.place}")
    return channels.reshape(-1, *[1] * (op.out.ndim - 2)).expand(op.out.shape)


def unpooled(run: Labeller, op: Op) -> Tensor:
    """max_unpool: the indices have the channels of the map that was pooled."""
    x, places = run.tensor(op.given["self"]), run.tensor(op.given["indices"])
    space = set(range(x.ndim - (3 if "3d" in op.name else 2), x.ndim))
    if space & {d for t in (x, places) for d in run.space.varying(t)}:
        raise Unknown("channels are laid out in space")
    joined = run.space.join([x, places])
    small = joined[tuple(slice(0, 1) if d in space else slice(None) for d in range(x.ndim))]
    return small.expand(op.out.shape)


def transformed(run: Labeller, op: Op) -> Value:
    """Fourier transforms and running sums: over space they keep the channels apart."""
    x, given = run.tensor(op.args[0]), op.given
    over = given.get("dim", [-2, -1] if op.name.endswith("2") else None)
    over = list(range(x.ndim)) if over is None or over == [] else over
    dims = {int(d) % x.ndim for d in (over if isinstance(over, list | tuple) else [over])}
    if dims & set(run.space.varying(x)):
        raise Unknown("mixes channels")
    small = x[tuple(slice(0, 1) if d in dims else slice(None) for d in range(x.ndim))]
    return op.packed(tuple(small.expand(out.shape) for out in op.outs))


def windows(run: Labeller, op: Op) -> Tensor:
    """Tensor.unfold: windows along a dimension, laid out along a new one."""
    x, dim = run.tensor(op.args[0]), int(op.given["dimension"])
    if x.ndim and dim % x.ndim in run.space.varying(x):
        raise Unknown("takes windows of channels")
    moved: Any = op.target(x, *op.args[1:], **op.kwargs)
    return uniform(moved)


def _alone(run: Labeller, x: Tensor, axis: int) -> Tensor:
    """The channels along this dimension, the only one along which they may lie."""
    if set(run.space.varying(x)) - {axis}:
        raise Unknown("channels are laid out in space")
    return run.space.along(x, axis)
