"""Several maps at once: sums, concatenations, shared layers."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from random_networks.builder import Builder, Make, Part, Step, kind, register
from random_networks.layers import pick, plain, unit, width


@kind(4)
def residual(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    c, middle, o = net.shape(i)[0], width(s.c), width(s.c + 1)
    variants = (
        lambda: Part(lambda m, x: x + m.b(m.a(x)), a=unit(c, middle, s.b), b=plain(middle, c)),
        lambda: Part(
            lambda m, x: F.relu(m.b(m.a(x)) + m.skip(x)),
            a=unit(c, middle, s.b, stride=2), b=unit(middle, o, 13),
            skip=nn.Conv2d(c, o, 1, stride=2, bias=False),
        ),
        lambda: Part(
            lambda m, x: m.b(m.a(x)).add_(x).relu_(), a=unit(c, middle, s.b), b=plain(middle, c)
        ),
        lambda: Part(
            lambda m, x: x + m.b(m.a(F.relu(m.norm(x)))),
            a=unit(c, middle, s.b, kernel=1), b=plain(middle, c), norm=nn.BatchNorm2d(c),
        ),
        lambda: Part(  # the inverted residual of MobileNetV2
            lambda m, x: x + m.c(m.b(m.a(x))),
            a=unit(c, 2 * c, 7, kernel=1), b=unit(2 * c, 2 * c, s.b, groups=2 * c),
            c=unit(2 * c, c, 13, kernel=1),
        ),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)


def joined(*variants: Callable[..., Any]) -> Make:
    """A step that applies one of some functions to (part, map, map of the same shape)."""

    def make(net: Builder, s: Step) -> None:
        net.add(Part(pick(variants, s.b)), *net.pair(s))

    return make


register(
    "add",
    joined(
        lambda m, x, y: x + y,
        lambda m, x, y: torch.add(x, y, alpha=0.5),
        lambda m, x, y: x * torch.sigmoid(y),
        lambda m, x, y: x - F.relu(y),
        lambda m, x, y: torch.lerp(x, y, 0.3),
        lambda m, x, y: x + y.mean((2, 3), keepdim=True),
        lambda m, x, y: x / (1 + y.abs()),
        lambda m, x, y: torch.addcmul(x, y, torch.sigmoid(x), value=0.5),
        lambda m, x, y: sum([x, y]),
    ),
    3,
)
register(
    "maximum",
    joined(
        lambda m, x, y: torch.maximum(x, y),
        lambda m, x, y: torch.minimum(x, y),
        lambda m, x, y: torch.max(x, y),
        lambda m, x, y: torch.fmax(x, y.sin()),
    ),
)
register(
    "where",
    joined(
        lambda m, x, y: torch.where(x > y, x, y * 0.5),
        lambda m, x, y: torch.where(x > 0, x, y),
        lambda m, x, y: x.masked_fill(y > 0.3, 0.1),
        lambda m, x, y: torch.where(x > 0.2, x, 0.1),
        lambda m, x, y: torch.where(y < 0, torch.tensor(0.3), x),
        lambda m, x, y: x * (y > 0),
    ),
)


@kind(3)
def concat(net: Builder, s: Step) -> None:
    """Two or three maps one after the other; the same one twice is fine."""
    i = net.take(s.a)
    others = [net.take(s.c), net.take(s.a + s.c + 1)][: 1 + s.b % 2]
    same = [i, *(net.resized(j, net.shape(i)[1:]) for j in others)]
    variants = (
        lambda m, *maps: torch.cat(maps, 1),
        lambda m, *maps: F.relu(torch.concat(maps, dim=-3)),
        lambda m, *maps: torch.cat([x.sigmoid() for x in maps], 1),
        lambda m, *maps: torch.cat([x.permute(0, 2, 3, 1) for x in maps], -1).permute(0, 3, 1, 2),
    )
    net.add(Part(pick(variants, s.b // 2)), *same)


@kind()
def stack(net: Builder, s: Step) -> None:
    """A new dimension that is reduced, or that interleaves the channels."""
    variants = (
        lambda m, x, y: torch.stack([x, y]).mean(0),
        lambda m, x, y: torch.stack([x, y, x], 1).sum(1),
        lambda m, x, y: torch.stack([x, y], 2).flatten(1, 2),
        lambda m, x, y: torch.stack([x, y], -1).amax(-1),
        lambda m, x, y: torch.stack([x, y], 1).flatten(1, 2),
        lambda m, x, y: (torch.stack([x, y], 1) * m.w.softmax(0).view(1, 2, 1, 1, 1)).sum(1),
    )
    net.add(Part(pick(variants, s.b), w=nn.Parameter(torch.rand(2))), *net.pair(s))


@kind()
def twice(net: Builder, s: Step) -> None:
    """One module that is executed twice."""
    i, j = net.pair(s)
    c = net.shape(i)[0]
    variants: tuple[Callable[[], tuple[Any, ...]], ...] = (
        lambda: (Part(lambda m, x: F.relu(m.again(F.relu(m.again(x)))), again=plain(c, c)), i),
        lambda: (Part(lambda m, x, y: m.a(x) + m.a(y.flip(3)), a=unit(c, width(s.c))), i, j),
        lambda: (
            Part(lambda m, x, y: torch.cat([m.n(x), F.relu(m.n(y))], 1), n=nn.BatchNorm2d(c)), i, j
        ),
        lambda: (
            Part(
                lambda m, x: m.b(m.act(m.a(x)) * m.act(m.a(x.flip(2)))),
                a=plain(c, 6), act=nn.PReLU(6), b=plain(6, c),
            ), i,
        ),
        lambda: (
            Part(lambda m, x, y: torch.cat([m.a(x), m.a(F.relu(y))], 1), a=plain(c, width(s.c))),
            i, j,
        ),
    )  # fmt: skip
    net.add(*pick(variants, s.b)())


@kind()
def tied(net: Builder, s: Step) -> None:
    """Tensors with two owners, or two uses."""
    i = net.take(s.a)
    c = net.shape(i)[0]
    a, b = plain(c, c), plain(c, c)
    norm, other = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
    variants = (
        lambda: Part(lambda m, x: F.relu(m.a(x)) + F.relu(m.b(x.flip(3))), a=a, b=_tie(b, a)),
        lambda: Part(
            lambda m, x: m.n(m.b(F.relu(m.k(m.a(x))))), a=a, b=b, n=norm, k=_tie(other, norm)
        ),
        lambda: Part(lambda m, x: m.b(F.relu(m.a(x))), a=a, b=_tie(b, a)),
        lambda: Part(lambda m, x: m.b(torch.sigmoid(m.a(x))), a=a, b=a),
        lambda: Part(
            lambda m, x: F.conv_transpose2d(F.relu(m.a(x)), m.a.weight, padding=1),
            a=plain(c, width(s.c)),
        ),
        lambda: Part(
            lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=a, b=_tie(plain(c, c, bias=False), a)
        ),
        lambda: Part(lambda m, x: m.a(x) * m.a.bias[:, None, None], a=a),
    )
    net.add(pick(variants, s.b)(), i)


def _tie(module: nn.Module, to: nn.Module) -> nn.Module:
    module.weight = to.weight
    return module
