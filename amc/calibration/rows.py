"""Layers as regressions: the rows that one execution of a layer gives at some output positions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SPATIAL: dict[Callable[..., Any], int] = {
    F.linear: 0,
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Rows:
    """Rows of one layer for one batch: R of them, G groups of the convolution.

    Attributes:
        x: [G, R, D] inputs, D = inputs per group x kernel size; empty when nobody wants them.
        y: [G, R, N] outputs without bias, N = outputs per group.
        shortcut: [G, R, N] what is added to the layer's output later on (`residual`).
        gain: [G, 1, N] by how much the output must change for one unit of the sum.
    """

    x: Tensor
    y: Tensor
    shortcut: Tensor | None = None
    gain: Tensor | None = None

    def select(self, keep: Tensor) -> "Rows":
        """Some of the outputs only; keep [N'] indexes those of each group."""
        shortcut, gain = (t if t is None else t[:, :, keep] for t in (self.shortcut, self.gain))
        return Rows(self.x, self.y[:, :, keep], shortcut, gain)


@dataclass(frozen=True)
class Call:
    """One execution of a convolution (not transposed) or linear layer.

    Attributes:
        given: its arguments by name.
        out: its result.
        spatial: dimensions of the convolution; 0 for a linear layer.
    """

    given: Mapping[str, Any]
    out: Tensor
    spatial: int

    @property
    def weight(self) -> Tensor:
        """The layer's weight."""
        weight: Tensor = self.given["weight"]
        return weight

    @property
    def channel_dim(self) -> int:
        """Which dimension of the result holds the channels."""
        return self.out.ndim - 1 - self.spatial

    @property
    def positions(self) -> int:
        """Output positions that share a weight: pixels of a convolution, tokens otherwise."""
        shape = self.out.shape
        return (shape[-self.spatial :] if self.spatial else shape[1:-1]).numel()

    def inputs(self, chosen: Tensor) -> Tensor:
        """What the layer sees at these positions [P], as [G, B*P, D]."""
        x = self.given["input"]
        if not self.spatial:
            seen = x.reshape(len(x), -1, x.shape[-1])[:, chosen]
        else:
            seen = _patches(self.given, self._batched(x), self._batched(self.out).shape, chosen)
        return self._grouped(seen)

    def outputs(self, chosen: Tensor) -> Tensor:
        """What the layer adds to its bias at these positions [P], as [G, B*P, N]."""
        rows, bias = self.at(self.out, chosen), self.given.get("bias")
        return rows if bias is None else rows - bias.reshape(len(rows), 1, -1)

    def at(self, like: Tensor, chosen: Tensor) -> Tensor:
        """A tensor of the result's shape at these positions [P], as [G, B*P, N]."""
        if not self.spatial:
            return self._grouped(like.reshape(len(like), -1, like.shape[-1])[:, chosen])
        return self._grouped(self._batched(like).flatten(2)[:, :, chosen].movedim(1, 2))

    def _batched(self, x: Tensor) -> Tensor:
        return x[None] if x.ndim == self.spatial + 1 else x

    def _grouped(self, rows: Tensor) -> Tensor:
        """[B, P, G*n] -> [G, B*P, n]."""
        groups = int(self.given.get("groups", 1))
        return rows.reshape(rows.shape[0] * rows.shape[1], groups, -1).movedim(1, 0)


def weight_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The weight of a layer, if this operator is one."""
    return _given(args, kwargs).get("weight") if func in _SPATIAL else None


def call_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Call | None:
    """The execution of a layer, if this operator is one."""
    return Call(_given(args, kwargs), out, _SPATIAL[func]) if func in _SPATIAL else None


def call_before(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """A layer that has not run yet: the result is that of the first image alone."""
    given, spatial = _given(args, kwargs), _SPATIAL[func]
    x = given["input"]
    few = x if x.ndim == spatial + 1 else x[:1]
    return Call(given, func(**{**given, "input": few}), spatial)


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}


def _patches(given: Mapping[str, Any], x: Tensor, out: torch.Size, chosen: Tensor) -> Tensor:
    """The inputs that each chosen output position sees, [B, P, C*K] in the order of the weight."""
    spatial = len(out) - 2
    kernel = list(given["weight"].shape[2:])
    stride = _per_axis(given.get("stride", 1), spatial)
    dilation = _per_axis(given.get("dilation", 1), spatial)
    before, after = _padding(given.get("padding", 0), kernel, dilation, spatial)
    pads = [p for axis in reversed(range(spatial)) for p in (before[axis], after[axis])]
    padded = F.pad(x, pads)
    corners = torch.unravel_index(chosen, tuple(out[2:]))
    flat = torch.zeros(len(chosen), 1, dtype=torch.long, device=x.device)
    for axis in range(spatial):
        taps = torch.arange(kernel[axis], device=x.device) * dilation[axis]
        along = corners[axis][:, None] * stride[axis] + taps  # [P, k]
        flat = (flat[:, :, None] * padded.shape[2 + axis] + along[:, None, :]).flatten(1)
    seen = padded.flatten(2)[:, :, flat]  # [B, C, P, K]
    return seen.movedim(1, 2).flatten(2)


def _per_axis(value: Any, spatial: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values if len(values) == spatial else values * spatial


def _padding(
    padding: Any, kernel: list[int], dilation: list[int], spatial: int
) -> tuple[list[int], list[int]]:
    if padding == "valid":
        return [0] * spatial, [0] * spatial
    if padding == "same":  # an odd total goes behind, as torch does
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [t // 2 for t in total], [t - t // 2 for t in total]
    same = _per_axis(padding, spatial)
    return same, same
