"""Normalisation by groups, layers, instances."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import Builder, Part, Step, kind, modular, register
from random_networks.layers import activation, pick, plain

register(
    "batch_norm",
    modular(
        lambda c: nn.BatchNorm2d(c),
        lambda c: nn.BatchNorm2d(c, affine=False),
        lambda c: nn.BatchNorm2d(c, track_running_stats=False),
        lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.BatchNorm2d(c)),
    ),
)


@kind(1.5)
def group_norm(net: Builder, s: Step) -> None:
    i = net.take(s.a, multiple=4)
    c = net.shape(i)[0]
    groups = (2, 4, 1, c, 2)[s.b % 5]
    norm = nn.GroupNorm(groups, c, affine=s.b % 5 != 4)
    # torch 2.13 crashes in its backward pass of a map that is laid out channels last and needs no
    # gradient
    net.add(Part(lambda m, x: m.act(m.norm(x.contiguous())), norm=norm, act=activation(c, s.c)), i)


register(
    "instance_norm",
    modular(
        lambda c: nn.InstanceNorm2d(c, affine=True),
        lambda c: nn.InstanceNorm2d(c),
        lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
        lambda c: nn.InstanceNorm2d(c, track_running_stats=True),
        size=2,
    ),
)


@kind()
def layer_norm(net: Builder, s: Step) -> None:
    """Over the channels, moved to the end and back; over everything; over a row."""
    i = net.take(s.a, size=2)
    c, h, w = net.shape(i)

    def last(m: Any, x: Tensor) -> Tensor:
        return m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    variants = (
        lambda: Part(last, norm=nn.LayerNorm(c)),
        lambda: Part(last, norm=nn.LayerNorm(c, elementwise_affine=False)),
        lambda: nn.LayerNorm([c, h, w]),
        lambda: nn.LayerNorm(w),
        lambda: Part(last, norm=nn.RMSNorm(c)),
        lambda: Part(lambda m, x: F.normalize(x, dim=1)),
        lambda: Part(  # ConvNeXt
            lambda m, x: x + m.b(F.gelu(m.a(m.norm(m.dw(x).permute(0, 2, 3, 1))))).permute(
                0, 3, 1, 2
            ),
            dw=plain(c, c, groups=c), norm=nn.LayerNorm(c), a=nn.Linear(c, 2 * c),
            b=nn.Linear(2 * c, c),
        ),
    )  # fmt: skip
    net.add(pick(variants, s.b)(), i)
