"""Layers that are not convolutions, and modules that forward does not name."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import Builder, Part, Step, kind
from random_networks.layers import pick, plain, unit, width


@kind()
def linear(net: Builder, s: Step) -> None:
    """Linear layers on channels that were moved to the end; and on a row of the image."""
    i = net.take(s.a)
    c, h, w = net.shape(i)
    o = width(s.c)

    def permuted(m: Any, x: Tensor) -> Tensor:
        return m.b(F.gelu(m.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)

    def tokens(m: Any, x: Tensor) -> Tensor:
        y = m.b(F.silu(m.a(x.flatten(2).transpose(1, 2)))).transpose(1, 2)
        return x + y.reshape(x.shape[0], -1, h, w)

    variants = (
        lambda: Part(permuted, a=nn.Linear(c, o), b=nn.Linear(o, width(s.c + 1))),
        lambda: Part(tokens, a=nn.Linear(c, o), b=nn.Linear(o, c)),
        lambda: Part(lambda m, x: F.relu(m.a(x)), a=nn.Linear(w, w)),
        lambda: Part(
            lambda m, x: x + m.b(m.a(x.flatten(2)).relu()).view_as(x),
            a=nn.Linear(h * w, o), b=nn.Linear(o, h * w),
        ),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)


@kind(2)
def dense(net: Builder, s: Step) -> None:
    """Flatten and linear at several sizes; the features become maps of one pixel."""
    i = net.take(s.a)
    c, h, w = net.shape(i)
    size = ((h, w), (2, 2), (1, 1), (4, 4), (3, 2))[s.c % 5]
    i = net.resized(i, size)
    n, o = c * size[0] * size[1], width(s.c)

    def chain(m: Any, x: Tensor) -> Tensor:
        return m.b(F.relu(m.a(x.flatten(1))))[:, :, None, None]

    def normed(m: Any, x: Tensor) -> Tensor:
        y = F.silu(m.norm(m.a(x.reshape(x.shape[0], -1))))
        return y.unsqueeze(2).unsqueeze(3)

    def reordered(m: Any, x: Tensor) -> Tensor:
        return m.a(x.permute(0, 2, 3, 1).flatten(1)).relu().view(x.shape[0], -1, 1, 1)

    def laid_out(m: Any, x: Tensor) -> Tensor:
        return m.a(x.flatten(1)).reshape(x.shape[0], -1, 2, 2)

    variants = (
        lambda: Part(chain, a=nn.Linear(n, o), b=nn.Linear(o, width(s.c + 1))),
        lambda: Part(normed, a=nn.Linear(n, o), norm=nn.BatchNorm1d(o)),
        lambda: Part(reordered, a=nn.Linear(n, o)),
        lambda: Part(laid_out, a=nn.Linear(n, 4 * o)),
    )
    net.add(pick(variants, s.b)(), i)


@kind(0.5)
def unused(net: Builder, s: Step) -> None:
    """A layer that forward never calls."""
    net.unused.append(unit(4, width(s.c), s.b))


@kind()
def hooked(net: Builder, s: Step) -> None:
    """A container whose output, or input, a hook scales."""
    i = net.take(s.a)
    c, o = net.shape(i)[0], width(s.c)
    part = nn.Sequential(unit(c, o, s.b), plain(o, c))
    if s.b % 3 == 0:
        part.register_forward_hook(lambda m, args, out: out * 0.5)
    elif s.b % 3 == 1:
        part.register_forward_pre_hook(lambda m, args: (args[0].clamp(-2, 2),))
    else:
        part[0].register_forward_hook(lambda m, args, out: out + args[0].mean())
    net.add(part, i)
