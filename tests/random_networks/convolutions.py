"""Convolutions of every kind."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from random_networks.builder import SIZE, Builder, Part, Step, kind
from random_networks.layers import activation, pick, plain, unit, width


@kind(6)
def conv(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    kernel = 1 if s.c % 3 == 2 else 3
    net.add(unit(net.shape(i)[0], width(s.c), s.b, kernel=kernel), i)


@kind()
def stride(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    net.add(unit(net.shape(i)[0], width(s.c), s.b, stride=2), i)


@kind(2)
def depthwise(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    c = net.shape(i)[0]
    options = {"stride": 2} if s.c % 3 == 2 else {}
    net.add(unit(c, c * (1 + s.b % 2), s.b // 2, groups=c, **options), i)


@kind(2)
def grouped(net: Builder, s: Step) -> None:
    groups = (2, 4)[s.b % 2]
    i = net.take(s.a, multiple=groups)
    outputs = -(-width(s.c) // groups) * groups
    net.add(unit(net.shape(i)[0], outputs, s.b // 2, groups=groups), i)


@kind(2)
def transposed(net: Builder, s: Step) -> None:
    """Plain, in groups, depthwise, and depthwise with two outputs for an input."""
    i = net.take(s.a, multiple=4)
    c, h, _ = net.shape(i)
    groups = (1, 2, c, c, 4)[s.b % 5]
    outputs = (width(s.c), 2 * width(s.c), c, 2 * c, 4 * width(s.c))[s.b % 5]
    double = h < SIZE and s.b % 2 == 0
    layer = nn.ConvTranspose2d(
        c, outputs, 4 if double else 3, stride=2 if double else 1, padding=1, groups=groups,
        bias=s.b % 3 > 0,
    )  # fmt: skip
    net.add(nn.Sequential(layer, nn.BatchNorm2d(outputs), activation(outputs, s.b)), i)


@kind()
def conv1d(net: Builder, s: Step) -> None:
    """Space laid out in a row: a chain, depthwise, in groups; and along the channels (ECA)."""
    i = net.take(s.a, multiple=2)
    c, h, w = net.shape(i)
    o = width(s.c)

    def row(m: Any, x: Tensor) -> Tensor:
        return m.second(F.relu(m.first(x.flatten(2)))).reshape(x.shape[0], -1, h, w)

    def along_channels(m: Any, x: Tensor) -> Tensor:
        y = m.first(x.mean((2, 3))[:, None])[:, 0]
        return x * torch.sigmoid(y)[:, :, None, None]

    def layer(inputs: int, outputs: int, groups: int = 1) -> nn.Conv1d:
        return nn.Conv1d(inputs, outputs, 3, padding=1, groups=groups)

    variants = (
        lambda: Part(row, first=layer(c, o), second=layer(o, c)),
        lambda: Part(row, first=layer(c, c, c), second=layer(c, o)),
        lambda: Part(row, first=layer(c, c, 2), second=nn.BatchNorm1d(c)),
        lambda: Part(along_channels, first=layer(1, 1)),
    )
    net.add(pick(variants, s.b)(), i)


@kind()
def conv3d(net: Builder, s: Step) -> None:
    """A depth of one, two maps as the depth, the channels as the depth."""
    i, j = net.pair(s)
    c, o = net.shape(i)[0], width(s.c)
    layer = nn.Conv3d(c, o, 3, padding=1)
    if s.b % 3 == 0:
        norm = nn.BatchNorm3d(o)
        net.add(
            Part(lambda m, x: m.norm(m.conv(x.unsqueeze(2))).squeeze(2), conv=layer, norm=norm), i
        )
    elif s.b % 3 == 1:
        net.add(Part(lambda m, x, y: m.conv(torch.stack([x, y], 2)).mean(2), conv=layer), i, j)
    else:
        layer = nn.Conv3d(1, 4, 3, padding=1)
        net.add(Part(lambda m, x: F.relu(m.conv(x.unsqueeze(1))).mean(1), conv=layer), i)


@kind()
def functional(net: Builder, s: Step) -> None:
    """Bare parameters as weights; weights that are computed."""
    i = net.take(s.a)
    c, o = net.shape(i)[0], width(s.c)
    kernel, offset = nn.Parameter(torch.randn(o, c, 3, 3) / c), nn.Parameter(torch.rand(o))
    flat = nn.Parameter(torch.randn(o, c) / c)
    one = nn.Parameter(torch.randn(c, 1, 3, 3))
    scale, shift = nn.Parameter(torch.rand(c) + 0.5), nn.Parameter(torch.rand(c) - 0.5)
    mean, var = torch.rand(c), torch.rand(c) + 0.5
    variants = (
        lambda: Part(lambda m, x: F.conv2d(x, m.k, m.b, padding=1), k=kernel, b=offset),
        lambda: Part(lambda m, x: F.relu(F.conv2d(x, m.k, stride=2, padding=1)), k=kernel),
        lambda: Part(
            lambda m, x: F.linear(x.movedim(1, -1), m.k, m.b).movedim(-1, 1), k=flat, b=offset
        ),
        lambda: Part(lambda m, x: F.conv2d(x, m.k, groups=x.shape[1], padding=1), k=one),
        lambda: Part(
            lambda m, x: F.batch_norm(x, m.mean, m.var, m.w, m.b),
            mean=mean, var=var, w=scale, b=shift,
        ),
        lambda: Part(lambda m, x: F.prelu(x, m.w), w=scale),
        lambda: Part(
            lambda m, x: F.conv2d(x, m.k / m.k.square().sum((1, 2, 3), True).sqrt(), padding=1),
            k=kernel,
        ),
        lambda: parametrizations.weight_norm(plain(c, o)),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)
