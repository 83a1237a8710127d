"""What happens along height and width alone."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import SIZE, Builder, Part, Step, kind, modular, register, unary
from random_networks.layers import pick

register(
    "global_pool",
    unary(
        lambda m, x: x.mean((2, 3), keepdim=True),
        lambda m, x: F.adaptive_avg_pool2d(x, 1),
        lambda m, x: F.adaptive_max_pool2d(x, 1),
        lambda m, x: x.amax(dim=(-2, -1), keepdim=True),
        lambda m, x: x.flatten(2).mean(-1)[..., None, None],
        lambda m, x: torch.cat([x.mean((2, 3), True), x.amax((2, 3), True)], 1),
        lambda m, x: x.max(dim=3, keepdim=True).values,
        lambda m, x: x.flatten(2).max(2)[0][:, :, None, None],
        lambda m, x: x.flatten(2).logsumexp(2)[:, :, None, None],
    ),
)


def _unpooled(m: Any, x: Tensor) -> Tensor:
    y, where = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(y, where, [2, 2], output_size=x.shape[-2:])


register(
    "pool",
    unary(
        lambda m, x: F.max_pool2d(x, 2),
        lambda m, x: F.avg_pool2d(x, 2),
        lambda m, x: F.max_pool2d(x, 3, stride=1, padding=1),
        lambda m, x: F.avg_pool2d(x, 3, stride=2, padding=1),
        lambda m, x: F.max_pool2d(x, 2, ceil_mode=True),
        lambda m, x: F.adaptive_avg_pool2d(x, (2, 3)),
        lambda m, x: x + F.interpolate(F.adaptive_max_pool2d(x, 2), x.shape[-2:]),
        _unpooled,
        size=2,
    ),
)


@kind()
def upsample(net: Builder, s: Step) -> None:
    i = net.take(s.a)
    _, h, w = net.shape(i)
    size = (2 * h, 2 * w) if max(h, w) <= SIZE // 2 else (SIZE, SIZE)
    variants: tuple[Callable[..., Any], ...] = (
        lambda m, x: F.interpolate(x, size, mode="nearest"),
        lambda m, x: F.interpolate(x, size, mode="bilinear", align_corners=False),
        lambda m, x: F.interpolate(x, size, mode="bicubic"),
        lambda m, x: F.interpolate(x, size, mode="nearest-exact"),
        lambda m, x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :SIZE, :SIZE],
    )
    net.add(Part(pick(variants, s.b)), i)


register(
    "pad",
    modular(
        lambda c: Part(lambda m, x: F.pad(x, (1, 2, 0, 1))[..., :SIZE, 1:]),
        lambda c: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(c, 6, 3)),
        lambda c: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(c, c, 3, groups=c), nn.ReLU()),
        lambda c: nn.Sequential(nn.ReplicationPad2d(1), nn.MaxPool2d(3, 1)),
        lambda c: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.AvgPool2d(3, 1)),
        lambda c: nn.Conv2d(c, 6, 3, padding=1, padding_mode="reflect"),
        lambda c: nn.Conv2d(c, 6, 3, padding=1, padding_mode="circular"),
        size=2,
    ),
)
register(
    "softmax",
    unary(
        lambda m, x: x * x.flatten(2).softmax(2).view_as(x),
        lambda m, x: x.softmax(3) + x.softmax(2),
        lambda m, x: (x.flatten(2) * x.flatten(2).softmax(2)).sum(2)[:, :, None, None],
        lambda m, x: F.log_softmax(x.flatten(2), -1).unflatten(2, x.shape[2:]),
        size=2,
    ),
)
register(
    "squeeze",
    unary(
        lambda m, x: x.unsqueeze(1).squeeze(1),
        lambda m, x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1)[:, :, None, None],
        lambda m, x: x.unsqueeze(-1).unsqueeze(0).squeeze(0).squeeze(-1),
        lambda m, x: F.adaptive_avg_pool2d(x, 1).squeeze()[:, :, None, None],
        lambda m, x: x.flatten(2).unsqueeze(-1).unflatten(2, x.shape[2:]).squeeze(-1),
        lambda m, x: x.unsqueeze(2).repeat(1, 1, 2, 1, 1).flatten(1, 2),
        lambda m, x: x[:, :, None].expand(-1, -1, 3, -1, -1).mean(2),
        lambda m, x: x.repeat(1, 2, 1, 1),
        lambda m, x: x.repeat_interleave(2, 1),
        least=2,
    ),
)
