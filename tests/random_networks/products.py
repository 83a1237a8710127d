"""Maps that scale each other: squeeze-excite, gates, attention."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import Builder, Part, Step, kind
from random_networks.layers import pick, plain


@kind(2)
def squeeze_excite(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    c, r = net.shape(i)[0], (4, 3, 2)[s.c % 3]

    def narrow(m: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(m.up(F.silu(m.down(x.mean((2, 3), keepdim=True)))))

    def hard(m: Any, x: Tensor) -> Tensor:
        y = F.hardsigmoid(m.up(F.relu(m.down(F.adaptive_avg_pool2d(x, 1)))))
        return y * x

    def dense(m: Any, x: Tensor) -> Tensor:
        y = m.up(F.relu(m.down(x.mean((2, 3)))))
        return x * torch.sigmoid(y).view(x.shape[0], -1, 1, 1)

    def film(m: Any, x: Tensor) -> Tensor:
        scale, shift = m.both(F.relu(m.down(x.amax((2, 3))))).chunk(2, 1)
        return x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]

    def expanded(m: Any, x: Tensor) -> Tensor:
        y = m.up(F.gelu(m.down(x.mean([2, 3])))).unsqueeze(-1).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)

    linear = {"down": nn.Linear(c, r), "up": nn.Linear(r, c)}
    convs = {"down": nn.Conv2d(c, r, 1), "up": nn.Conv2d(r, c, 1)}
    variants = (
        lambda: Part(narrow, **convs),
        lambda: Part(dense, **linear),
        lambda: Part(hard, **convs),
        lambda: Part(film, down=nn.Linear(c, r), both=nn.Linear(r, 2 * c)),
        lambda: Part(expanded, **linear),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def gate(net: Builder, s: Step) -> None:
    """A single map multiplies every channel."""
    i, j = net.pair(s)
    c = net.shape(i)[0]
    variants: tuple[Callable[[], tuple[Any, ...]], ...] = (
        lambda: (Part(lambda m, x: x * torch.sigmoid(m.gate(x)), gate=plain(c, 1)), i),
        lambda: (
            Part(lambda m, x, y: m.gate(F.relu(m.a(y))).sigmoid() * x, a=plain(c, 5),
                 gate=plain(5, 1)), i, j,
        ),
        lambda: (Part(lambda m, x: x * torch.sigmoid(x.mean(1, keepdim=True))), i),
        lambda: (
            Part(
                lambda m, x: x * m.gate(
                    torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
                ).sigmoid(),
                gate=plain(2, 1),
            ), i,
        ),
        lambda: (
            Part(lambda m, x: x * m.fc(x.mean((2, 3)))[:, :, None, None], fc=nn.Linear(c, 1)), i
        ),
    )  # fmt: skip
    net.add(*pick(variants, s.b)())


@kind(2)
def scale(net: Builder, s: Step) -> None:
    """Bare parameters and buffers, one number or one for each channel."""
    i = net.take(s.a)
    c, h, w = net.shape(i)
    wide, high, flat = torch.rand(1, c, 1, 1) + 0.5, torch.rand(c, 1, 1) - 0.5, torch.rand(c)
    variants: tuple[Callable[[], nn.Module], ...] = (
        lambda: Part(lambda m, x: x * m.w, w=nn.Parameter(wide)),
        lambda: Part(lambda m, x: x * m.w + m.b, w=nn.Parameter(torch.rand(1)), b=high),
        lambda: Part(lambda m, x: m.w * x, w=nn.Parameter(torch.tensor(0.7))),
        lambda: Part(lambda m, x: x + m.w.view(1, -1, 1, 1), w=nn.Parameter(flat)),
        lambda: Part(lambda m, x: x * m.w[:, None, None], w=nn.Parameter(flat)),
        lambda: Part(
            lambda m, x: (x.permute(0, 2, 3, 1) * m.w).permute(0, 3, 1, 2), w=nn.Parameter(flat)
        ),
        lambda: Part(lambda m, x: x * m.w.expand_as(x).exp(), w=wide),
        lambda: Part(lambda m, x: x + m.w, w=nn.Parameter(torch.randn(1, c, h, w))),
        lambda: Part(lambda m, x: x + m.w, w=nn.Parameter(torch.randn(h, w))),
        lambda: Part(lambda m, x: x * F.softplus(m.w.reshape(1, -1, 1, 1)), w=nn.Parameter(flat)),
    )
    net.add(pick(variants, s.b)(), i)


@kind(0.5)
def attention(net: Builder, s: Step) -> None:
    """Between positions by hand and by operator, in heads, and between channels."""
    i = net.take(s.a)
    c, h, w = net.shape(i)

    def qkv(m: Any, x: Tensor) -> list[Tensor]:
        return [y.flatten(2).transpose(1, 2) for y in m.qkv(x).chunk(3, 1)]

    def by_hand(m: Any, x: Tensor) -> Tensor:
        q, k, v = qkv(m, x)
        y = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(-1) @ v
        return x + m.out(y.transpose(1, 2).unflatten(2, (h, w)))

    def by_operator(m: Any, x: Tensor) -> Tensor:
        q, k, v = qkv(m, x)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + m.out(y.transpose(1, 2).unflatten(2, (h, w)))

    def heads(m: Any, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(2, (2, -1)).transpose(1, 2) for y in qkv(m, x))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + m.out(y.transpose(1, 2).unflatten(2, (h, w)))

    def channels(m: Any, x: Tensor) -> Tensor:
        y = x.flatten(2)
        return x + m.out((y.softmax(2) @ y.transpose(1, 2) @ y).view_as(x))

    run = pick((by_hand, by_operator, heads, channels), s.b)
    layers = {} if run is channels else {"qkv": nn.Conv2d(c, 24, 1)}
    net.add(Part(run, out=nn.Conv2d(c if run is channels else 8, c, 1), **layers), i)
