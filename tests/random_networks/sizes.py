"""Sizes read off tensors, and numbers that mean something else."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import Builder, Part, Step, kind
from random_networks.layers import WIDTHS, pick, plain, unit


@kind(2)
def size_of_another(net: Builder, s: Step) -> None:
    """Forward reads the size of one map and means that of another."""
    i = net.take(s.a, multiple=4)
    c = net.shape(i)[0]

    def selective(m: Any, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        maps = torch.stack([m.one(x), m.other(x)])
        z = m.down(maps.sum(0).mean((-1, -2)))
        gates = torch.stack([m.up(z).view(b, c, 1, 1), m.top(z).view(b, c, 1, 1)])
        return (gates.softmax(0) * maps).sum(0)

    def excited(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = m.one(x)
        return y * m.up(F.relu(m.down(x.mean((2, 3))))).sigmoid().view(b, c, 1, 1).expand(
            b, c, h, w
        )

    def mixed(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = m.p(F.relu(m.q(x.flatten(2).transpose(1, 2))))
        return tokens.transpose(1, 2).reshape(b, c, h, w)

    def later(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        z = m.other(y)
        return torch.cat([y.view(len(y), z.shape[1], *y.shape[2:]), z], 1)

    def crossed(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        z = m.other(y)
        n, c = x.shape[:2]
        made = m.p(y.mean((2, 3))).view(n, c, 1, 1)
        return made + m.q(z.mean((2, 3))).view(n, y.shape[1], 1, 1) * z.mean()

    def halved(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return F.relu(m.one(x)).view(n, c // 2, h, w)

    def doubled(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return F.relu(m.one(x)).reshape(n, 2 * c, h * w).unflatten(2, (h, w))

    def repeated(m: Any, x: Tensor) -> Tensor:
        return m.one(x) * m.gate(x).sigmoid().repeat(1, x.shape[1], 1, 1)

    def padded(m: Any, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape) + m.one(x)

    linear = {"down": nn.Linear(c, 3), "up": nn.Linear(3, c)}
    variants = (
        lambda: Part(
            selective, one=unit(c, c), other=unit(c, c, 1), top=nn.Linear(3, c), **linear
        ),
        lambda: Part(excited, one=unit(c, c), **linear),
        lambda: Part(mixed, q=nn.Linear(c, c), p=nn.Linear(c, c)),
        lambda: Part(later, one=unit(c, c), other=unit(c, c, 1)),
        lambda: Part(
            crossed, one=unit(c, c), other=unit(c, c), p=nn.Linear(c, c), q=nn.Linear(c, c)
        ),
        lambda: Part(halved, one=plain(c, c // 2)),
        lambda: Part(doubled, one=plain(c, 2 * c)),
        lambda: Part(repeated, one=unit(c, c), gate=plain(c, 1)),
        lambda: Part(padded, one=unit(c, c)),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def branch(net: Builder, s: Step) -> None:
    """Forward compares sizes and goes one way or another."""
    i = net.take(s.a)
    c = net.shape(i)[0]
    other = pick([w for w in WIDTHS if w != c], s.c)

    def same_shape(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return y + x if y.shape == x.shape else y

    def same_width(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return y * 1.5 if y.size(1) == x.size(1) else y

    def wider(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return torch.cat([x, y], 1) * (-1.0 if x.size(1) > y.size(1) else 1.0)

    def a_number(m: Any, x: Tensor) -> Tensor:
        return -m.one(x) if x.shape[1] == 3 else m.one(x)

    def a_multiple(m: Any, x: Tensor) -> Tensor:
        return -m.one(x) if x.shape[1] % 4 == 0 else m.one(x)

    def among(m: Any, x: Tensor) -> Tensor:
        return m.one(x) * (0.5 if m.one(x).shape[1] in (2, 3, 5) else 1.0)

    def harmless(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        if y.shape[1] != x.shape[1]:
            return y * 1.0
        assert x.ndim == 4 and y.shape[2:] == x.shape[2:]
        return y

    ways = (same_shape, same_width, wider, a_number, a_multiple, among, harmless)
    net.add(Part(pick(ways, s.b), one=unit(c, c if s.c % 5 == 0 else other)), i)


@kind()
def bystander(net: Builder, s: Step) -> None:
    """An attribute holds the number of some channels by chance, and must go on holding it."""
    i = net.take(s.a)
    part, rest = pick(((4, 2), (6, 3), (5, 4)), s.c)

    def halves(m: Any, x: Tensor) -> Tensor:
        a, b = m.one(x).split((m.part, m.rest), 1)
        return m.other(F.relu(a)) * b.mean(1, keepdim=True).sigmoid()

    def ends(m: Any, x: Tensor) -> Tensor:
        y = m.one(x)
        return torch.cat([m.other(y[:, : m.part]), y[:, m.part :]], 1)

    def resampled(m: Any, x: Tensor) -> Tensor:
        a, b = m.one(F.interpolate(x, (m.bystander, m.bystander))).split((m.part, m.rest), 1)
        return torch.cat([m.other(a), b], 1)

    def stretched(m: Any, x: Tensor) -> Tensor:
        y = m.one(x).unflatten(1, (m.pair, -1)).flatten(1, 2)
        return m.other(y.narrow(1, 0, m.part)) / m.bystander

    parts = {"one": plain(net.shape(i)[0], part + rest), "other": plain(part, 4)}
    if s.b % 4 == 3:
        parts["one"] = plain(net.shape(i)[0], 2 * part)
    numbers = {"part": part, "rest": rest, "pair": 2, "bystander": part}
    net.add(Part(pick((halves, ends, resampled, stretched), s.b), **parts, **numbers), i)
