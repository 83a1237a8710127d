"""Channels that meet in sums, and operators off the beaten track."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import Builder, Part, Step, kind, register, unary
from random_networks.layers import pick, plain, unit, width


def _under_modes(m: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = m.one(x)
    with torch.autocast("cpu", enabled=False):
        return y + m.other(x)


@kind()
def mode(net: Builder, s: Step) -> None:
    """Regions that run under a mode of their own."""
    i = net.take(s.a)
    c, o = net.shape(i)[0], width(s.c)
    net.add(Part(_under_modes, one=unit(c, o, s.b), other=plain(c, o)), i)


register(
    "sum_of_channels",
    unary(
        lambda m, x: x / (x.pow(2).sum(1, keepdim=True).sqrt() + 0.5),
        lambda m, x: x / (1 + x.norm(dim=1, keepdim=True)),
        lambda m, x: x * torch.sigmoid(x.sum(1, keepdim=True)),
        lambda m, x: x * (g := x.abs().sum((2, 3), True)) / (g.sum(1, True) + 1),
        lambda m, x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1).sqrt(),
    ),
)


@kind()
def product(net: Builder, s: Step) -> None:
    """Matrix products with a parameter, and of two maps."""
    i = net.take(s.a)
    c, h, w = net.shape(i)
    o = width(s.c)
    matrix, turned = nn.Parameter(torch.randn(c, o) / c), nn.Parameter(torch.randn(o, c) / c)

    def last(m: Any, x: Tensor) -> Tensor:
        return (x.permute(0, 2, 3, 1) @ m.w + m.b).permute(0, 3, 1, 2)

    def added(m: Any, x: Tensor) -> Tensor:
        return torch.addmm(m.b, x.mean((2, 3)), m.w)[:, :, None, None]

    def attended(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.q(x).flatten(2), m.k(x).flatten(2), m.v(x).flatten(2)
        return x + (v @ (0.3 * q.mT @ k).softmax(-1).mT).unflatten(2, (h, w))

    variants = (
        lambda: Part(last, w=matrix, b=nn.Parameter(torch.rand(o))),
        lambda: Part(lambda m, x: (m.w @ x.flatten(2)).unflatten(2, (h, w)), w=turned),
        lambda: Part(attended, q=plain(c, o, 1), k=plain(c, o, 1), v=plain(c, c, 1)),
        lambda: Part(added, w=matrix, b=nn.Parameter(torch.rand(o))),
        lambda: Part(lambda m, x: (x.mean((2, 3)) @ m.w.t())[:, :, None, None], w=turned),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def recurrent(net: Builder, s: Step) -> None:
    """Rows of the image as a sequence; its last state is a map of one pixel."""
    i = net.take(s.a)
    c, h = net.shape(i)[0], width(s.c)
    kinds: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.GRU(c, h, batch_first=True),
        lambda: nn.LSTM(c, h, batch_first=True, bidirectional=True),
        lambda: nn.RNN(c, h, 2, batch_first=True),
    )
    net.add(
        Part(
            lambda m, x: m.r(x.mean(2).mT)[0][:, -1][:, :, None, None], r=pick(kinds, s.b)()
        ), i
    )  # fmt: skip


class State(nn.Module):
    """A first state of zeros as wide as the module says."""

    def __init__(self, inputs: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.hidden, self.gated = hidden, gated
        self.new = nn.Conv2d(inputs + hidden, hidden * (1 + gated), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), self.hidden, *x.shape[2:])
        for _ in range(2):
            y = self.new(torch.cat([x, h], 1))
            if self.gated:
                z, y = y.split(self.hidden, 1)
                h = h + z.sigmoid() * (y.tanh() - h)
            else:
                h = y.tanh()
        return h


@kind()
def state(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    net.add(State(net.shape(i)[0], width(s.c), s.b % 2 == 1), i)


def _written_quarter(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    n = y.shape[1] // 4
    y[:, :n] = m.c(x[:, :n])
    return y


def _written_zeros(m: Any, x: Tensor) -> Tensor:
    y = m.c(x[:, : x.shape[1] // 4])
    z = x.new_zeros(len(x), x.shape[1] + y.shape[1], *x.shape[2:])
    z[:, : x.shape[1]] = x
    z[:, x.shape[1] :] = y
    return z


def _half_gated(m: Any, x: Tensor) -> Tensor:
    n = x.shape[1] // 2
    return x[:, :n] * x[:, n:].sigmoid()


@kind()
def part_of_channels(net: Builder, s: Step) -> None:
    """Slices whose ends are read off a shape; writes into them."""
    i = net.take(s.a, multiple=4)
    n = net.shape(i)[0] // 4
    variants = (
        lambda: Part(_written_quarter, c=plain(n, n)),
        lambda: Part(_half_gated),
        lambda: Part(_written_zeros, c=plain(n, n)),
        lambda: Part(lambda m, x: torch.cat([x[:, ::2], x[:, 1::2].tanh()], 1)),
        lambda: Part(lambda m, x: F.group_norm(x, x.shape[1] // (4 if x.shape[1] > 4 else 2))),
    )
    net.add(pick(variants, s.b)(), i)


def _indexed(m: Any, x: Tensor) -> Tensor:
    y, where = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(m.c(y), where, 2)


@kind()
def local(net: Builder, s: Step) -> None:
    """Operators of space that treat channels alike."""
    i = net.take(s.a, size=2)
    c, h, w = net.shape(i)
    i = net.resized(i, (h + h % 2, w + w % 2))
    h, w = net.shape(i)[1:]
    variants = (
        lambda: Part(_indexed, c=plain(c, c)),
        lambda: Part(lambda m, x: F.fold(F.unfold(x, 2, stride=2), (h, w), 2, stride=2)),
        lambda: Part(
            lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * m.f, s=(h, w)),
            f=torch.rand(h, w // 2 + 1),
        ),
        lambda: Part(
            lambda m, x: F.conv2d(x, m.k.expand(x.shape[1], -1, -1, -1), groups=x.shape[1]),
            k=torch.rand(1, 1, 1, 1),
        ),
        lambda: Part(
            lambda m, x: F.grid_sample(
                x, m.g(x).tanh().permute(0, 2, 3, 1), align_corners=False
            ), g=plain(c, 2),
        ),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)
