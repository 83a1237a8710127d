"""What works element by element, and what leaves values as they are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import Builder, Part, Step, kind, modular, register, unary
from random_networks.layers import pick

register(
    "keep",
    modular(
        lambda c: Part(lambda m, x: x.detach()),
        lambda c: Part(lambda m, x: x.clone()),
        lambda c: Part(lambda m, x: x.contiguous()),
        lambda c: nn.Dropout(0.2),
        lambda c: nn.Identity(),
        lambda c: Part(lambda m, x: x.to(memory_format=torch.channels_last)),
        lambda c: Part(lambda m, x: x.double().to(x.dtype)),
        lambda c: nn.Dropout2d(0.2),
    ),
)
register(
    "clamp",
    unary(
        lambda m, x: x.clamp(-1, 1),
        lambda m, x: torch.where(x > 0, x, 0.1 * x),
        lambda m, x: x.clamp(min=0.1) * 2 - 1,
        lambda m, x: x.abs() ** 1.5,
        lambda m, x: F.threshold(x, 0.1, 0.05),
        lambda m, x: F.gelu(x, approximate="tanh"),
        lambda m, x: torch.exp(-x.square()),
        lambda m, x: torch.cos(x) + F.softsign(x) * F.hardtanh(x),
        lambda m, x: x.masked_fill(x < 0, 0.2),
    ),
)


def _written(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:3] = 0.5
    return y


def _scaled_part(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :2] *= 2
    return y


def _zeroed_border(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[..., 0] = 0
    return y


def _added_to_zeros(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y += x
    return y


def _added_through_view(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.flatten(2).mul_(0.5).add_(1)
    return y


def _added_part_to_part(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    half = y.shape[1] // 2
    y[:, :half].add_(y[:, half:])
    return y


register(
    "in_place",
    unary(
        lambda m, x: x.clone().add_(x).mul_(0.3).relu_(),
        _written,
        _zeroed_border,
        _added_to_zeros,
        _added_through_view,
        _scaled_part,
        _added_part_to_part,
        multiple=2,
        least=4,
    ),
    0.5,
)


@kind(0.7)
def hard_coded(net: Builder, s: Step) -> None:
    """The number of channels is written in forward, in one way or another."""
    i = net.take(s.a, multiple=2)
    c, h, w = net.shape(i)

    def asserted(m: Any, x: Tensor) -> Tensor:
        assert x.shape[1] == c
        return x

    variants = (
        lambda: Part(lambda m, x: x.reshape(x.shape[0], c, -1).unflatten(2, (h, w))),
        lambda: Part(lambda m, x: x.reshape(-1, c, h, w)),
        lambda: Part(lambda m, x: x / x.shape[1]),
        lambda: Part(lambda m, x: x + torch.arange(float(c))[:, None, None]),
        lambda: Part(lambda m, x: x.unflatten(1, (2, c // 2)).flatten(1, 2)),
        lambda: Part(lambda m, x: torch.cat(x.split(c // 2, 1)[::-1], 1)),
        lambda: Part(lambda m, x: x * torch.full((1, c, 1, 1), 0.5)),
        lambda: Part(asserted),
        lambda: Part(lambda m, x: x.reshape(x.shape[0], m.width, h, w), width=c),
        lambda: Part(
            lambda m, x: m.fc(x.reshape(-1, c * h * w))[:, :, None, None],
            fc=nn.Linear(c * h * w, 4),
        ),
    )
    net.add(pick(variants, s.b)(), i)


def _sampled(m: Any, x: Tensor) -> Tensor:
    grid = torch.linspace(-1, 1, 4, dtype=x.dtype).expand(x.shape[0], 4, 4)
    return F.grid_sample(x, torch.stack([grid, grid.transpose(1, 2)], -1), align_corners=True)


register(
    "opaque",
    unary(
        lambda m, x: x.cumsum(1) * 0.3,
        lambda m, x: x.sort(1).values,
        lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x).mean(2)[:, :, None, None],
        lambda m, x: x.softmax(1),
        lambda m, x: torch.fft.fft(x, dim=1).real,
        lambda m, x: x.sum(1, keepdim=True),
        lambda m, x: x.topk(2, 1).values,
        lambda m, x: x.gather(1, torch.zeros_like(x, dtype=torch.long)),
        lambda m, x: F.local_response_norm(x, 3),
        lambda m, x: F.unfold(x, 2)[:, :, :1, None],
        _sampled,
        lambda m, x: x.cumsum(2) * 0.3,
        lambda m, x: torch.einsum("bchw->bcwh", x),
        lambda m, x: x.std((2, 3), keepdim=True, correction=0),
        lambda m, x: x.transpose(1, 2).flatten(2).softmax(2).unflatten(2, (-1, x.shape[3])),
        least=3,
        size=2,
    ),
    0.7,
)
