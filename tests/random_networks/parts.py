"""Parts of the channels: halves, shuffles, pixels, padding."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import SIZE, Builder, Part, Step, kind, modular, register, unary
from random_networks.layers import pick, plain, unit, width


@kind()
def halves(net: Builder, s: Step) -> None:
    """Both halves are used."""
    i = net.take(s.a, multiple=2)
    h = net.shape(i)[0] // 2

    def processed(m: Any, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([left, m.a(right)], 1)

    def exchanged(m: Any, x: Tensor) -> Tensor:
        left, right = x.split(x.shape[1] // 2, 1)
        return torch.cat([F.relu(right), left], 1)

    def gated(m: Any, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return left * torch.sigmoid(right)

    def coupled(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = x.tensor_split(2, 1)
        left = left + F.silu(right)
        return left, right * torch.tanh(left)

    variants = (
        lambda: Part(processed, a=unit(h, width(s.c), s.b)),
        lambda: Part(exchanged),
        lambda: Part(gated),
        lambda: Part(coupled),
        lambda: Part(lambda m, x: tuple(x.chunk(2, 1))),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def parts(net: Builder, s: Step) -> None:
    """Three or four parts of equal length, each a map of its own."""
    n = (3, 4)[s.b % 2]
    i = net.take(s.a, multiple=n)
    variants = (
        lambda m, x: tuple(x.chunk(n, 1)),
        lambda m, x: tuple(torch.split(x, x.shape[1] // n, 1)),
        lambda m, x: x.unflatten(1, (n, -1)).unbind(1),
        lambda m, x: tuple(x.unflatten(1, (n, -1))[:, k] for k in range(n)),
        lambda m, x: x.unflatten(1, (-1, n)).unbind(2),
    )
    net.add(Part(pick(variants, s.b // 2)), i)


def _around(m: Any, x: Tensor) -> Tensor:
    first, rest = x[:, :1], x[:, 1:]
    return torch.cat([rest, first], 1)


register(
    "slice",
    unary(
        lambda m, x: x[:, 1:],
        lambda m, x: x[:, :-1],
        lambda m, x: x[:, ::2],
        lambda m, x: x.index_select(1, torch.tensor([3, 0, 1])),
        lambda m, x: tuple(x.split([3, x.shape[1] - 3], 1)),
        lambda m, x: x.narrow(1, 1, 2) + x[:, 0:1],
        lambda m, x: x * x.select(1, 2).unsqueeze(1).sigmoid(),
        lambda m, x: x[:, [0, 2, 2]],
        lambda m, x: x.roll(1, 1),
        lambda m, x: x.flip(1),
        _around,
        lambda m, x: x[:, : x.shape[1] // 2],
        least=4,
    ),
    0.7,
)


def _transposed_shuffle(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.contiguous().view(b, m.n, c // m.n, h, w).transpose(1, 2).reshape(b, c, h, w)


@kind()
def shuffle(net: Builder, s: Step) -> None:
    n = (2, 4)[s.c % 2]
    i = net.take(s.a, multiple=n)
    variants = (
        lambda: Part(_transposed_shuffle, n=n),
        lambda: nn.ChannelShuffle(n),
        lambda: Part(lambda m, x: x.unflatten(1, (-1, n)).transpose(1, 2).flatten(1, 2)),
        lambda: Part(lambda m, x: torch.cat([x[:, k::n] for k in range(n)], 1)),
    )
    net.add(pick(variants, s.b)(), i)


register(
    "glu",
    modular(
        lambda c: Part(lambda m, x: F.glu(x, 1)),
        lambda c: nn.GLU(1),
        lambda c: nn.GLU(-3),
        lambda c: Part(
            lambda m, x: F.glu(m.fc(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2), fc=nn.Linear(c, 8)
        ),
        multiple=2,
    ),
)


@kind()
def pixel(net: Builder, s: Step) -> None:
    """Channels into space and back."""
    _, h, w = net.shape(i := net.take(s.a, multiple=4))
    down: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.PixelUnshuffle(2),
        lambda: Part(lambda m, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2]], 1)),
    )
    up: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.PixelShuffle(2),
        lambda: Part(
            lambda m, x: (
                x.reshape(x.shape[0], 2, 2, -1, h, w)
                .permute(0, 3, 4, 1, 5, 2)
                .reshape(x.shape[0], -1, 2 * h, 2 * w)
            )
        ),
    )
    if s.b % 2 == 0 and max(h, w) <= SIZE:
        net.add(pick(up, s.b // 2)(), i)
    else:
        net.add(pick(down, s.b // 2)(), net.resized(i, (h + h % 2, w + w % 2)))


@kind()
def pad_channels(net: Builder, s: Step) -> None:
    """The shortcut of ResNet's option A, and other channels that no layer wrote."""
    i = net.take(s.a)
    c, o = net.shape(i)[0], net.shape(i)[0] + 4

    def grown(m: Any, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return torch.cat([x, x.new_zeros(b, 2, h, w)], 1)

    variants = (
        lambda: Part(lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 2)) + m.a(x), a=plain(c, o)),
        lambda: Part(lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 3))),
        lambda: Part(
            lambda m, x: F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.a(x)),
            a=unit(c, o, 13, stride=2),
        ),
        lambda: Part(lambda m, x: torch.sigmoid(F.pad(x, (0, 0, 0, 0, 1, 0)))),
        lambda: Part(grown),
        lambda: Part(
            lambda m, x: m.n(F.pad(x, (0, 0, 0, 0, 1, 1), value=0.5)), n=nn.BatchNorm2d(c + 2)
        ),
        lambda: Part(lambda m, x: torch.cat([torch.ones_like(x[:, :1]), x], 1)),
    )
    net.add(pick(variants, s.b)(), i)
