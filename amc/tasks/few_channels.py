"""Batch norm on a CPU of tensors with few channels, channels last.

PyTorch's own goes along the channels of one pixel at a time, which leaves vector units mostly
empty below their 16 numbers: at 6 channels it takes five times as long as need be. Here several
pixels make one row. The numbers are the same up to rounding.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW = 16
"""Channels from which on PyTorch's own batch norm is the faster one."""

PIXELS = 16
"""In a row, where the image has a multiple of that."""


class FewChannels(nn.BatchNorm2d):
    """`nn.BatchNorm2d`; what it is not faster at, it leaves to that."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        if not self._faster(input):
            return super().forward(input)
        weight, bias, mean, var = self.weight, self.bias, self.running_mean, self.running_var
        assert mean is not None and var is not None
        if not self.training:
            scale = weight * (var + self.eps).rsqrt()
            return _line(input, scale, bias - mean * scale)
        found, now, spread = _Normalise.apply(input, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.num_batches_tracked.add_(1)
            samples = input.numel() / len(mean)
            mean.lerp_(now, self.momentum)
            var.lerp_(spread * (samples / (samples - 1)), self.momentum)
        out: Tensor = found
        return out

    def _faster(self, x: Tensor) -> bool:
        return (
            x.ndim == 4
            and x.shape[1] == self.num_features < FEW
            and x.dtype == torch.float32
            and x.device.type == "cpu"
            and x.is_contiguous(memory_format=torch.channels_last)
            and len(x) * x.shape[2] * x.shape[3] > 1
            and self.affine
            and self.track_running_stats
            and self.momentum is not None
            and self.weight.dtype == torch.float32
        )


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation * weight + bias of a batch; with mean and variance, both [C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        rows, count = _rows(x)
        mean = _mean(rows, count)
        centred = rows - mean.repeat(count)
        var = _mean(centred.square(), count)
        inverse = (var + eps).rsqrt()
        found = torch.empty_like(x)  # no view, which nobody could change in place
        rows, scale = _rows(found)[0], (weight * inverse).repeat(count)
        torch.addcmul(bias.repeat(count), centred, scale, out=rows)
        ctx.save_for_backward(centred, inverse, weight)
        ctx.mark_non_differentiable(mean, var)
        return found, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        centred, inverse, weight = ctx.saved_tensors
        last = gradient.contiguous(memory_format=torch.channels_last)
        rows, count = _rows(last)
        mean, along = _mean(rows, count), _mean(rows * centred, count)
        scale = weight * inverse
        found = torch.addcmul((-scale * mean).repeat(count), rows, scale.repeat(count))
        found.addcmul_(centred, (-scale * inverse.square() * along).repeat(count))
        samples = rows.numel() // len(scale)
        return _image(found, last), along * inverse * samples, mean * samples, None


def _line(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """``x * scale + offset``, both [C]."""
    rows, count = _rows(x)
    return _image(torch.addcmul(offset.repeat(count), rows, scale.repeat(count)), x)


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """[B, C, H, W], channels last, as rows of so many pixels."""
    _, channels, height, width = x.shape
    count = math.gcd(height * width, PIXELS)
    return x.permute(0, 2, 3, 1).reshape(-1, count * channels), count


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """The reverse of `_rows`."""
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _mean(rows: Tensor, count: int) -> Tensor:
    """Of every channel, [C]."""
    return rows.sum(0).view(count, -1).sum(0) / (len(rows) * count)
