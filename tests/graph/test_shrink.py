"""Tracing and cutting: what is coupled, against hand-drawn groups; the cut, against masking."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc.graph.shrink import load_tensors
from amc.models import BUNDLED
from amc.models.catalog import build
from oracles import coupled, coupled_by_torch_pruning

BUNDLED_SETTINGS: dict[str, tuple[float, int]] = {  # width, image size
    "resnet20": (1.0, 16),
    "resnet56": (0.5, 12),
    "resnet50": (0.125, 32),
    "plain20": (1.0, 16),
    "vgg16": (0.25, 32),
    "mobilenet_v1": (0.5, 16),
    "mobilenet_v2": (0.5, 16),
}


class Net(nn.Module):
    """Modules and parameters by name, and the forward pass as a function of them."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        return self.run(self, *inputs)


@dataclass
class Case:
    """A network, and its groups as drawn by hand: name -> (size, writers, readers)."""

    model: nn.Module
    inputs: tuple[Any, ...]
    groups: dict[str, tuple[int, str, str]]


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def images(channels: int = 3, size: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and affine parameters of norms drawn at random, so that nothing cancels."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.copy_(draw(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(draw(module.running_var, 0.7, 1.5))
                module.weight.copy_(draw(module.weight, 0.6, 1.1))
                module.bias.copy_(draw(module.bias, -0.3, 0.3))
    return model.eval()


def random_keep(graph: amc.ChannelGraph, seed: int) -> amc.Plan:
    """Between one and all channels of every group stay, at random."""
    rng = np.random.default_rng(seed)
    return graph.plan(
        {
            g.name: rng.permutation(g.size)[: rng.integers(1, g.size, endpoint=True)]
            for g in graph.decisions
        }
    )


def difference(one: nn.Module, other: nn.Module, inputs: tuple[Any, ...]) -> float:
    with torch.no_grad():
        a, b = tree_flatten(one(*inputs))[0], tree_flatten(other(*inputs))[0]
    assert [x.shape for x in a] == [x.shape for x in b]
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def counted_macs(model: nn.Module, inputs: tuple[Any, ...], batch: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    assert counter.get_total_flops() % (2 * batch) == 0
    return counter.get_total_flops() // (2 * batch)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def drawn(graph: amc.ChannelGraph) -> dict[str, tuple[int, str, str]]:
    return {g.name: (g.size, " ".join(g.writers), " ".join(g.readers)) for g in graph.decisions}


def frozen(graph: amc.ChannelGraph) -> dict[str, str]:
    return {g.name: g.reason for g in graph.groups if not g.prunable}


# --- small networks, one per way in which channels can hang together


def chain() -> Case:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), conv(6, 2))
    return Case(model, (images(),), {"0": (8, "0", "3"), "3": (6, "3", "4")})


def residual_identity() -> Case:
    model = Net(
        lambda m, x: m.head((y := F.relu(m.stem(x))) + m.b(F.relu(m.a(y)))),
        stem=conv(3, 8), a=conv(8, 5), b=conv(5, 8), head=conv(8, 2),
    )  # fmt: skip
    groups = {"stem": (8, "stem b", "a head"), "a": (5, "a", "b")}
    return Case(model, (images(),), groups)


def residual_projection() -> Case:
    model = Net(
        lambda m, x: m.head(m.b(F.relu(m.a(y := m.stem(x)))) + m.skip(y)),
        stem=conv(3, 6), a=conv(6, 5, stride=2), b=conv(5, 8), skip=conv(6, 8, 1, stride=2),
        head=conv(8, 2),
    )  # fmt: skip
    groups = {"stem": (6, "stem", "a skip"), "a": (5, "a", "b"), "b": (8, "b skip", "head")}
    return Case(model, (images(),), groups)


def concatenation() -> Case:
    model = Net(
        lambda m, x: m.head(F.relu(m.norm(torch.cat([m.a(x), m.b(x)], 1)))),
        a=conv(3, 5), b=conv(3, 7), norm=nn.BatchNorm2d(12), head=conv(12, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"a": (5, "a", "head"), "b": (7, "b", "head")})


def dense_connections() -> Case:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = torch.cat([x, m.a(F.relu(m.n1(x)))], 1)
        x = torch.cat([x, m.b(F.relu(m.n2(x)))], 1)
        return m.head(x)

    model = Net(
        run, stem=conv(3, 4), n1=nn.BatchNorm2d(4), a=conv(4, 3), n2=nn.BatchNorm2d(7),
        b=conv(7, 5), head=conv(12, 2),
    )  # fmt: skip
    groups = {
        "stem": (4, "stem", "a b head"),
        "a": (3, "a", "b head"),
        "b": (5, "b", "head"),
    }
    return Case(model, (images(),), groups)


def flatten_linear() -> Case:
    model = nn.Sequential(
        conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 7), nn.Linear(7, 2)
    )
    return Case(model, (images(),), {"0": (6, "0", "4"), "4": (7, "4", "5")})


def depthwise() -> Case:
    model = nn.Sequential(
        conv(3, 8), conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), conv(8, 2, 1)
    )
    return Case(model, (images(),), {"0": (8, "0", "4")})


def depthwise_multiplier() -> Case:
    model = nn.Sequential(conv(3, 6), conv(6, 12, groups=6), nn.BatchNorm2d(12), conv(12, 2, 1))
    return Case(model, (images(),), {"0": (6, "0", "3")})


def grouped() -> Case:
    model = nn.Sequential(conv(3, 8), conv(8, 12, groups=2), nn.ReLU(), conv(12, 2))
    return Case(model, (images(),), {"0": (4, "0", "1"), "1": (6, "1", "3")})


def squeeze_excite() -> Case:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        scale = torch.sigmoid(m.up(F.silu(m.down(x.mean((2, 3), keepdim=True)))))
        return m.head(x * scale)

    model = Net(run, stem=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), head=conv(8, 2))
    groups = {"stem": (8, "stem up", "down head"), "down": (4, "down", "up")}
    return Case(model, (images(),), groups)


def chunk_and_concatenate() -> Case:
    def run(m: Any, x: Tensor) -> Tensor:
        left, right = m.stem(x).chunk(2, dim=1)
        return m.head(torch.cat([left, m.a(right)], 1))

    model = Net(run, stem=conv(3, 8), a=conv(4, 5), head=conv(9, 2))
    return Case(model, (images(),), {"stem": (4, "stem", "a head"), "a": (5, "a", "head")})


def gated_halves() -> Case:
    def run(m: Any, x: Tensor) -> Tensor:
        value, gate = m.stem(x).split(m.stem.weight.shape[0] // 2, dim=1)
        return m.head(value * torch.sigmoid(gate))

    model = Net(run, stem=conv(3, 10), head=conv(5, 2))
    return Case(model, (images(),), {"stem": (5, "stem", "head")})


def channel_shuffle() -> Case:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        b, c, h, w = x.shape
        return m.head(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))

    model = Net(run, stem=conv(3, 12), head=conv(12, 2))
    return Case(model, (images(),), {"stem": (6, "stem", "head")})


def native_channel_shuffle() -> Case:
    model = nn.Sequential(conv(3, 12), nn.ChannelShuffle(3), conv(12, 2))
    return Case(model, (images(),), {"0": (4, "0", "2")})


def pixel_shuffle() -> Case:
    model = nn.Sequential(conv(3, 12), nn.PixelShuffle(2), conv(3, 5), conv(5, 2))
    return Case(model, (images(),), {"0": (3, "0", "2"), "2": (5, "2", "3")})


def prelu() -> Case:
    model = nn.Sequential(
        conv(3, 8), nn.PReLU(8, init=0.3), conv(8, 6), nn.PReLU(init=0.2), conv(6, 2)
    )
    return Case(model, (images(),), {"0": (8, "0", "2"), "2": (6, "2", "4")})


def bare_scale() -> Case:
    model = Net(
        lambda m, x: m.head(m.stem(x) * m.scale + m.shift),
        stem=conv(3, 8), head=conv(8, 2),
        scale=nn.Parameter(torch.rand(1, 8, 1, 1)), shift=torch.rand(8, 1, 1),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (8, "stem", "head")})


def used_twice() -> Case:
    model = Net(
        lambda m, x: m.head(F.relu(m.again(F.relu(m.again(m.stem(x)))))),
        stem=conv(3, 6), again=conv(6, 6), head=conv(6, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem again", "again head")})


def tied_weights() -> Case:
    model = Net(
        lambda m, x: m.head(F.relu(m.a(x)) + F.relu(m.b(x.flip(3)))),
        a=conv(3, 6), b=conv(3, 6), head=conv(6, 2),
    )  # fmt: skip
    model.b.weight = model.a.weight
    return Case(model, (images(),), {"a": (6, "a", "head")})


def tied_norms() -> Case:
    """The norms share their scale, so the two convolutions must keep the same channels."""
    model = Net(
        lambda m, x: m.head(F.relu(m.n2(m.b(F.relu(m.n1(m.a(x))))))),
        a=conv(3, 6), n1=nn.BatchNorm2d(6), b=conv(6, 6), n2=nn.BatchNorm2d(6), head=conv(6, 2),
    )  # fmt: skip
    model.n2.weight = model.n1.weight
    return Case(model, (images(),), {"a": (6, "a b", "b head")})


def transposed() -> Case:
    model = nn.Sequential(
        conv(3, 6), nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1), nn.ReLU(), conv(8, 2)
    )
    return Case(model, (images(),), {"0": (6, "0", "1"), "1": (8, "1", "3")})


def one_dimensional() -> Case:
    model = nn.Sequential(
        nn.Conv1d(3, 8, 5, stride=2), nn.BatchNorm1d(8), nn.GELU(), nn.Conv1d(8, 6, 3),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip
    return Case(model, (torch.randn(2, 3, 20),), {"0": (8, "0", "3"), "3": (6, "3", "6")})


def three_dimensional() -> Case:
    model = nn.Sequential(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 2, 1))
    return Case(model, (torch.randn(2, 2, 5, 4, 4),), {"0": (6, "0", "3")})


def functional_convolution() -> Case:
    model = Net(
        lambda m, x: m.head(F.relu(F.conv2d(x, m.kernel, m.offset, padding=1))),
        kernel=nn.Parameter(torch.randn(8, 3, 3, 3)), offset=nn.Parameter(torch.randn(8)),
        head=conv(8, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"kernel": (8, "kernel", "head")})


def several_inputs_and_outputs() -> Case:
    def run(m: Any, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        both = m.a(x) + m.b(y)
        return m.first(both), {"second": m.second(both), "seen": x.mean()}

    model = Net(run, a=conv(3, 6), b=conv(1, 6), first=conv(6, 2), second=conv(6, 4))
    return Case(model, (images(), images(1)), {"a": (6, "a b", "first second")})


def dictionary_output() -> Case:
    model = Net(
        lambda m, x: {"logits": m.head(y := m.stem(x)), "features": m.side(y)},
        stem=conv(3, 6), head=conv(6, 2), side=conv(6, 5),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem", "head side")})


def spatial_padding() -> Case:
    model = Net(
        lambda m, x: m.head(F.pad(m.stem(x), (1, 2, 0, 1))),
        stem=conv(3, 6), head=nn.Conv2d(6, 2, 3, stride=2),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem", "head")})


def channel_padding() -> Case:
    """The shortcut of ResNet's option A: missing channels are zeros, written in forward.

    Channels that meet a padded zero cannot go, because the number of zeros is fixed.
    """
    model = Net(
        lambda m, x: m.head(F.pad(y := m.stem(x), (0, 0, 0, 0, 2, 2)) + m.a(y)),
        stem=conv(3, 4), a=conv(4, 8), head=conv(8, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (4, "stem a", "a head")})


def padded_then_read() -> Case:
    model = Net(
        lambda m, x: m.head(F.relu(m.norm(F.pad(m.stem(x), (0, 0, 0, 0, 0, 3))))),
        stem=conv(3, 6), norm=nn.BatchNorm2d(9), head=conv(9, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem", "head")})


def resampled() -> Case:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.stem(x)
        down = m.a(F.avg_pool2d(y, 2))
        return m.head(torch.cat([y, F.interpolate(down, scale_factor=2, mode="bilinear")], 1))

    model = Net(run, stem=conv(3, 4), a=conv(4, 6), head=conv(10, 2))
    return Case(model, (images(),), {"stem": (4, "stem", "a head"), "a": (6, "a", "head")})


def instance_normalisation() -> Case:
    model = nn.Sequential(conv(3, 6), nn.InstanceNorm2d(6, affine=True), nn.SiLU(), conv(6, 2))
    return Case(model, (images(),), {"0": (6, "0", "3")})


def in_place() -> Case:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        y += m.b(x)
        y.mul_(0.5)
        return m.head(F.relu(y, inplace=True))

    return Case(
        Net(run, a=conv(3, 6), b=conv(3, 6), head=conv(6, 2)), (images(),),
        {"a": (6, "a b", "head")},
    )  # fmt: skip


def channels_last_linear() -> Case:
    """The pointwise part of ConvNeXt: linear layers on permuted channels."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.stem(x)
        z = m.up(F.gelu(m.down(y.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return m.head(y + z)

    model = Net(run, stem=conv(3, 6), down=nn.Linear(6, 9), up=nn.Linear(9, 6), head=conv(6, 2))
    groups = {"stem": (6, "stem up", "down head"), "down": (9, "down", "up")}
    return Case(model, (images(),), groups)


def picked_in_space() -> Case:
    """Rows taken by a buffer of indices, a slice and a constant: channels are not concerned."""
    model = Net(
        lambda m, x: m.head(m.stem(x).index_select(2, m.rows)[:, :, :, 1:].flip(3)[..., 0:4]),
        stem=conv(3, 6), head=conv(6, 2), rows=torch.tensor([5, 0, 2]),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem", "head")})


def spatial_softmax() -> Case:
    """Spatial attention: a softmax over positions keeps the channels apart."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.stem(x).flatten(2)
        return m.head((y * y.softmax(2)).sum(2))

    model = Net(run, stem=conv(3, 6), head=nn.Linear(6, 2))
    return Case(model, (images(),), {"stem": (6, "stem", "head")})


def scalar_scales() -> Case:
    """Numbers applied to all channels alike: a parameter, a buffer, a constant of forward."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.stem(x) * m.alpha + m.offset
        return m.head(y + m.beta * m.a(F.relu(y)) * torch.tensor(0.5))

    model = Net(
        run, stem=conv(3, 6), a=conv(6, 6), head=conv(6, 2), alpha=nn.Parameter(torch.rand(1)),
        beta=nn.Parameter(torch.rand(1, 1, 1, 1)), offset=torch.tensor(0.3),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem a", "a head")})


def spatial_gate() -> Case:
    """A single map multiplies every channel: it must stay, and couples nothing."""
    model = Net(
        lambda m, x: m.head((y := m.stem(x)) * torch.sigmoid(m.gate(F.relu(m.a(y))))),
        stem=conv(3, 6), a=conv(6, 5), gate=conv(5, 1), head=conv(6, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem", "a head"), "a": (5, "a", "gate")})


def masked_by_an_input() -> Case:
    model = Net(lambda m, x, seen: m.head(m.stem(x) * seen), stem=conv(3, 6), head=conv(6, 2))
    return Case(model, (images(), images(1)), {"stem": (6, "stem", "head")})


def hard_activations() -> Case:
    """MobileNetV3's activation and others that PyTorch does not tag as element-wise."""
    model = Net(
        lambda m, x: m.head(F.relu6(F.logsigmoid(F.celu(F.hardswish(m.stem(x)))), inplace=True)),
        stem=conv(3, 6), head=conv(6, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (6, "stem", "head")})


def grouped_transposed() -> Case:
    model = nn.Sequential(
        conv(3, 8), nn.ConvTranspose2d(8, 12, 2, groups=4), nn.ReLU(), conv(12, 2)
    )
    return Case(model, (images(),), {"0": (2, "0", "1"), "1": (3, "1", "3")})


def depthwise_transposed() -> Case:
    model = nn.Sequential(conv(3, 6), nn.ConvTranspose2d(6, 12, 2, groups=6), conv(12, 2))
    return Case(model, (images(),), {"0": (6, "0", "2")})


def group_normalisation() -> Case:
    """Whole norm groups go: 4 of 3 channels each."""
    model = nn.Sequential(conv(3, 12), nn.GroupNorm(4, 12), nn.ReLU(), conv(12, 2))
    return Case(model, (images(),), {"0": (4, "0", "3")})


def group_normalisation_of_single_channels() -> Case:
    model = nn.Sequential(conv(3, 8), nn.GroupNorm(8, 8, affine=False), conv(8, 2))
    return Case(model, (images(),), {"0": (8, "0", "2")})


def normalised_over_space() -> Case:
    model = nn.Sequential(conv(3, 8), nn.LayerNorm([6, 6]), conv(8, 2))
    return Case(model, (images(),), {"0": (8, "0", "2")})


def gated_linear_unit() -> Case:
    model = nn.Sequential(conv(3, 12), nn.GLU(1), conv(6, 2))
    return Case(model, (images(),), {"0": (6, "0", "2")})


def parts_sized_by_an_attribute() -> Case:
    """YOLO's C2f: the sizes of a split are an attribute of the block."""

    def run(m: Any, x: Tensor) -> Tensor:
        a, b = m.stem(x).split((m.width, m.width), 1)
        return m.head(torch.cat([a, b, m.inner(b)], 1))

    model = Net(run, stem=conv(3, 12), inner=conv(6, 6), head=conv(18, 2))
    model.width = 6
    groups = {"stem": (6, "stem", "inner head"), "inner": (6, "inner", "head")}
    return Case(model, (images(),), groups)


def unequal_parts_sized_by_attributes() -> Case:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b = m.stem(x).split(m.widths, 1)
        return m.left(a) + m.right(b)

    model = Net(run, stem=conv(3, 12), left=conv(5, 2), right=conv(7, 2))
    model.widths = [5, 7]
    return Case(model, (images(),), {"stem": (5, "stem", "left"), "stem#2": (7, "stem", "right")})


def slices_ending_at_an_attribute() -> Case:
    """Partial convolution: the first channels are convolved, the others passed on."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(torch.cat([m.inner(x[:, : m.mixed]), x[:, m.mixed :]], 1))

    model = Net(run, stem=conv(3, 12), inner=conv(4, 4), head=conv(12, 2))
    model.mixed = 4
    groups = {"stem": (4, "stem", "inner"), "inner": (4, "inner", "head"),
              "stem#2": (8, "stem", "head")}  # fmt: skip
    return Case(model, (images(),), groups)


def view_sized_by_an_attribute() -> Case:
    model = Net(
        lambda m, x: m.head(m.stem(x).mean((2, 3)).view(-1, m.features)),
        stem=conv(3, 8), head=nn.Linear(8, 2),
    )  # fmt: skip
    model.features = 8
    return Case(model, (images(),), {"stem": (8, "stem", "head")})


def unflattened() -> Case:
    model = nn.Sequential(
        conv(3, 8), nn.Flatten(), nn.Unflatten(1, (8, 6, 6)), nn.InstanceNorm2d(8), conv(8, 2)
    )
    return Case(model, (images(),), {"0": (8, "0", "4")})


def functional_depthwise_sized_by_an_attribute() -> Case:
    model = Net(
        lambda m, x: m.head(F.conv2d(m.stem(x), m.kernel, groups=m.groups)),
        stem=conv(3, 8), kernel=nn.Parameter(torch.randn(8, 1, 3, 3)), head=conv(8, 2),
    )  # fmt: skip
    model.groups = 8
    return Case(model, (images(),), {"stem": (8, "stem", "head")})


def greater_of_two() -> Case:
    model = Net(
        lambda m, x: m.head(torch.where((y := torch.max(m.a(x), m.b(x))) > 0.2, y, 0.1)),
        a=conv(3, 6), b=conv(3, 6), head=conv(6, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"a": (6, "a b", "head")})


def inferred_size() -> Case:
    """Of 2 x 2 x 2 channels only the dimension that is written as -1 can adapt."""
    model = Net(
        lambda m, x: m.head(
            m.stem(x).reshape(2, 2, 2, -1, 6, 6).permute(0, 3, 4, 1, 5, 2).reshape(2, -1, 12, 12)
        ),
        stem=conv(3, 8), head=conv(2, 2),
    )  # fmt: skip
    return Case(model, (images(),), {"stem": (2, "stem", "head")})


CASES: list[Callable[[], Case]] = [
    chain, residual_identity, residual_projection, concatenation, dense_connections,
    flatten_linear, depthwise, depthwise_multiplier, grouped, squeeze_excite,
    chunk_and_concatenate, gated_halves, channel_shuffle, native_channel_shuffle,
    pixel_shuffle, prelu, bare_scale,
    used_twice, tied_weights, tied_norms, transposed, one_dimensional, three_dimensional,
    functional_convolution, several_inputs_and_outputs, dictionary_output, spatial_padding,
    channel_padding, padded_then_read, resampled, instance_normalisation, in_place,
    channels_last_linear, picked_in_space, spatial_softmax, scalar_scales, spatial_gate,
    masked_by_an_input, hard_activations, grouped_transposed, depthwise_transposed,
    group_normalisation, group_normalisation_of_single_channels, normalised_over_space,
    gated_linear_unit, parts_sized_by_an_attribute, unequal_parts_sized_by_attributes,
    slices_ending_at_an_attribute, view_sized_by_an_attribute, unflattened,
    functional_depthwise_sized_by_an_attribute, greater_of_two, inferred_size,
]  # fmt: skip


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_groups_are_those_drawn_by_hand(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    case = make()
    assert drawn(amc.trace(shaken(case.model), case.inputs)) == case.groups


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_shrunk_model_equals_masked_model(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    case = make()
    model = shaken(case.model)
    graph = amc.trace(model, case.inputs)
    batch = case.inputs[0].shape[0]
    assert graph.macs() == counted_macs(model, case.inputs, batch)
    for seed in range(4):
        plan = random_keep(graph, seed)
        smaller = amc.shrink(model, plan)
        assert difference(smaller, amc.mask(model, plan), case.inputs) <= 1e-5
        assert graph.macs(plan) == counted_macs(smaller, case.inputs, batch)
        assert graph.params(plan) == parameters(smaller)
        again = amc.trace(smaller, case.inputs)  # attributes and tensors agree
        assert again.macs() == graph.macs(plan)


# --- what must stay whole, and why


def between(run: Callable[[Tensor], Tensor], head: nn.Module, **parts: Any) -> nn.Module:
    """A convolution with eight channels, something unusual, and a layer that reads it."""
    return Net(lambda m, x: m.head(run(m.stem(x))), stem=conv(3, 8), head=head, **parts)


def with_part(part: nn.Module, head: nn.Module) -> nn.Module:
    return Net(lambda m, x: m.head(m.part(m.stem(x))), stem=conv(3, 8), part=part, head=head)


HARD_CODED = "a size is written in forward"
FROZEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "size written in forward": (
        lambda: between(lambda y: y.reshape(2, 8, 36).reshape(2, 8, 6, 6), conv(8, 2)),
        HARD_CODED,
    ),
    "batch swallows what a hard-coded size leaves": (
        lambda: between(lambda y: y.mean((2, 3)).view(-1, 8), nn.Linear(8, 2)),
        HARD_CODED,
    ),
    "number of channels used as a number": (
        lambda: between(lambda y: y * y.shape[1], conv(8, 2)),
        HARD_CODED,
    ),
    "constant as wide as the channels": (
        lambda: between(lambda y: y + torch.arange(8.0)[:, None, None], conv(8, 2)),
        HARD_CODED,
    ),
    "functional depthwise convolution": (
        lambda: Net(
            lambda m, x: m.head(F.conv2d(m.stem(x), m.kernel, groups=8)),
            stem=conv(3, 8),
            kernel=nn.Parameter(torch.randn(8, 1, 3, 3)),
            head=conv(8, 2),
        ),
        HARD_CODED,
    ),
    "normalised as one": (
        lambda: with_part(nn.GroupNorm(1, 8), conv(8, 2)),
        "group_norm normalises over all channels",
    ),
    "functional group norm": (
        lambda: between(lambda y: F.group_norm(y, 2), conv(8, 2)),
        "group_norm has a number of groups that is written in forward",
    ),
    "layer_norm": (
        lambda: with_part(nn.LayerNorm([8, 6, 6]), conv(8, 2)),
        "layer_norm normalises over the channels",
    ),
    "random in eval mode": (
        lambda: between(lambda y: F.dropout(y), conv(8, 2)),
        "dropout is random although the network is in eval mode",
    ),
    "matmul": (
        lambda: between(lambda y: (z := y.flatten(2)) @ z.transpose(1, 2), nn.Linear(8, 2)),
        "matmul mixes channels",
    ),
    "attention": (
        lambda: between(
            lambda y: F.scaled_dot_product_attention(*[y.flatten(2).transpose(1, 2)] * 3),
            nn.Linear(8, 2),
        ),
        "scaled_dot_product_attention mixes channels",
    ),
    "mean over channels": (
        lambda: between(lambda y: y.mean(1, keepdim=True), conv(1, 2)),
        "mean mixes channels",
    ),
    "softmax over channels": (
        lambda: between(lambda y: y.softmax(1), conv(8, 2)),
        "softmax mixes channels",
    ),
    "cumsum": (lambda: between(lambda y: y.cumsum(1), conv(8, 2)), "cumsum mixes channels"),
    "diff": (lambda: between(lambda y: y.diff(dim=1), conv(7, 2)), "diff is not known"),
    "fft": (
        lambda: between(lambda y: torch.fft.fft(y, dim=1).real, conv(8, 2)),
        "fft_fft mixes channels",
    ),
    "slice of the channels": (
        lambda: between(lambda y: y[:, 2:], conv(6, 2)),
        "slice takes channels at positions written in forward",
    ),
    "rolled channels": (
        lambda: between(lambda y: y.roll(1, 1), conv(8, 2)),
        "roll takes channels at positions written in forward",
    ),
    "rolled without a dimension": (
        lambda: between(lambda y: y.roll(1), conv(8, 2)),
        "roll takes channels at positions written in forward",
    ),
    "unequal parts": (
        lambda: between(lambda y: torch.cat(y.split([3, 5], 1)[::-1], 1), conv(8, 2)),
        "split_with_sizes cuts parts of unequal size",
    ),
    "mirrored channels": (
        lambda: with_part(nn.ReflectionPad3d((0, 0, 0, 0, 1, 1)), conv(10, 2)),
        "pad pads channels by mirroring",
    ),
    "channels in space": (
        lambda: between(lambda y: F.max_pool1d(y.mean(3).transpose(1, 2), 2), nn.Linear(4, 2)),
        "max_pool1d channels are laid out in space",
    ),
    "weight computed in forward": (
        lambda: Net(
            lambda m, x: m.head(F.conv2d(m.stem(x), m.kernel * 2)),
            stem=conv(3, 8),
            kernel=nn.Parameter(torch.randn(4, 8, 1, 1)),
            head=conv(4, 2),
        ),
        "has a weight that is computed in forward",
    ),
    "spread over other channels": (
        lambda: between(lambda y: (y[:, :, None] * y[:, None]).mean(2), conv(8, 2)),
        "applies it to all channels alike",
    ),
    "network output": (
        lambda: Net(lambda m, x: (m.head(y := m.stem(x)), y), stem=conv(3, 8), head=conv(8, 2)),
        "network output",
    ),
    "read by no layer": (
        lambda: Net(lambda m, x: (m.stem(x).amax((2, 3)) * 0).sum(), stem=conv(3, 8)),
        "no layer reads it",
    ),
}


@pytest.mark.parametrize("what", FROZEN)
def test_what_cannot_be_cut_is_frozen_with_the_reason(what: str) -> None:
    torch.manual_seed(0)
    make, reason = FROZEN[what]
    model = make()
    graph = amc.trace(model, (images(),))
    assert reason in frozen(graph)["stem"]
    assert "stem" not in graph.sizes
    assert graph.macs() == counted_macs(model, (images(),), 2)
    assert f"frozen: {frozen(graph)['stem']}" in str(graph)
    with pytest.raises(amc.AmcError, match=r"stem: cannot be pruned: ") as caught:
        graph.plan({"stem": [0]})
    assert reason in str(caught.value)


class RunningSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.cumsum(1)
        return self.head(x)


def test_reason_names_the_line_of_the_users_code() -> None:
    line = RunningSum.forward.__code__.co_firstlineno + 2
    reason = frozen(amc.trace(RunningSum(), (images(),)))["stem"]
    assert reason == f"cumsum mixes channels (test_shrink.py:{line})"


def test_a_frozen_part_leaves_the_rest_prunable() -> None:
    model = nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 6), nn.GroupNorm(1, 6), conv(6, 8), nn.ReLU(), conv(8, 2)
    )
    graph = amc.trace(model, (images(),))
    assert drawn(graph) == {"0": (8, "0", "2"), "4": (8, "4", "6")}
    assert frozen(graph)["2"].startswith("group_norm normalises over all channels (in 3")


def test_hard_coded_size_freezes_its_own_group_only() -> None:
    model = Net(
        lambda m, x: m.head(m.b(m.a(x)).reshape(2, 6, 36).mean(2)),
        a=conv(3, 8), b=conv(8, 6), head=nn.Linear(6, 2),
    )  # fmt: skip
    graph = amc.trace(model, (images(),))
    assert drawn(graph) == {"a": (8, "a", "b")}
    assert HARD_CODED in frozen(graph)["b"]


@pytest.mark.parametrize("keep", [{"nothing": [0]}, {"0": []}, {"0": [8]}, {"0": [-1]}])
def test_impossible_keep_is_refused(keep: dict[str, list[int]]) -> None:
    graph = amc.trace(nn.Sequential(conv(3, 8), conv(8, 2)), (images(),))
    with pytest.raises(amc.AmcError, match=r"unknown group 'nothing'|expected 1 to 8 channels"):
        graph.plan(keep)


def test_keeping_everything_is_an_empty_plan() -> None:
    graph = amc.trace(nn.Sequential(conv(3, 8), conv(8, 2)), (images(),))
    plan = graph.plan({"0": range(8), "1": [0, 1]})  # the output too, as nothing is removed
    assert plan.cuts == () and plan.strategy == {}


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x if x.sum() > 0 else -x


def test_model_that_cannot_be_exported_is_refused_in_one_line() -> None:
    with pytest.raises(amc.UnsupportedModelError) as caught:
        amc.trace(DataDependent(), (images(),))
    message = str(caught.value)
    line = DataDependent.forward.__code__.co_firstlineno + 2
    assert "\n" not in message
    assert re.match(rf"DataDependent cannot be traced: .*test_shrink\.py:{line} `return x", message)
    assert message.endswith("use torch.where, or move that part out of forward")


def test_model_that_does_not_run_is_refused_in_one_line() -> None:
    with pytest.raises(amc.UnsupportedModelError, match=r"^Sequential does not run") as caught:
        amc.trace(nn.Sequential(conv(4, 8)), (images(3),))
    assert "\n" not in str(caught.value)


# --- the cut and the network it was made from


def test_given_model_is_untouched() -> None:
    torch.manual_seed(0)
    model = shaken(build("resnet20", num_classes=10, in_channels=3, width=0.5)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    where = {k: v.data_ptr() for k, v in model.state_dict().items()}
    graph = amc.trace(model, (images(size=8),))
    plan = random_keep(graph, 0)
    with torch.no_grad():
        for p in amc.shrink(model, plan).parameters():
            p.zero_()
        for p in amc.mask(model, plan).parameters():
            p.zero_()
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in after)
    assert {k: v.data_ptr() for k, v in after.items()} == where
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_hooks_flags_names_and_classes_are_kept() -> None:
    torch.manual_seed(0)
    model = build("mobilenet_v2", num_classes=4, in_channels=3, width=0.25).double().train()
    seen: list[tuple[int, ...]] = []
    model.features[3].register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape)))
    for p in model.features[0].parameters():
        p.requires_grad = False
    model.features[1].eval()
    model.note = "mine"
    smaller = amc.shrink(model, random_keep(graph := amc.trace(model, (images().double(),)), 3))
    assert [n for n, _ in smaller.named_modules()] == [n for n, _ in model.named_modules()]
    assert [type(m) for m in smaller.modules()] == [type(m) for m in model.modules()]
    assert [m.training for m in smaller.modules()] == [m.training for m in model.modules()]
    assert [(n, p.requires_grad, p.dtype) for n, p in smaller.named_parameters()] == [
        (n, p.requires_grad, p.dtype) for n, p in model.named_parameters()
    ]
    assert list(smaller.state_dict()) == list(model.state_dict()) and smaller.note == "mine"
    seen.clear()
    smaller(images().double())
    (shape,) = seen
    assert 1 <= shape[1] <= graph.sizes[graph.layer("features.3.conv.2.0").out_group]


def test_attributes_follow_the_tensors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), conv(8, 16, groups=8), nn.PReLU(16), conv(16, 8, groups=2),
        nn.ConvTranspose2d(8, 6, 2), nn.Flatten(), nn.Linear(6 * 49, 5), nn.Linear(5, 2),
    )  # fmt: skip
    graph = amc.trace(model, (images(),))
    assert graph.sizes == {"0": 4, "4": 4, "5": 6, "7": 5}  # 0: pairs, as layer 4 has two groups
    smaller = amc.shrink(
        model, graph.plan({"0": [0, 2, 3], "4": [1], "5": [0, 5], "7": [0, 1, 2]})
    )
    facts = [
        (m.in_channels, m.out_channels, m.groups) for m in smaller if hasattr(m, "in_channels")
    ]
    assert facts == [(3, 6, 1), (6, 12, 6), (12, 2, 2), (2, 2, 1)]
    assert (smaller[1].num_features, smaller[3].num_parameters) == (6, 12)
    assert [(m.in_features, m.out_features) for m in smaller[7:]] == [(98, 3), (3, 2)]


@pytest.mark.filterwarnings("ignore")  # a warning of the cut network must not reveal it
def test_norm_without_tensors_counts_its_channels() -> None:
    model = nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8), nn.ReLU(), conv(8, 2))
    smaller = amc.shrink(model, amc.trace(model, (images(),)).plan({"0": [1, 5, 6]}))
    assert smaller[1].num_features == 3


def test_tied_weights_stay_tied() -> None:
    case = tied_weights()
    smaller = amc.shrink(case.model, amc.trace(case.model, case.inputs).plan({"a": [1, 4]}))
    assert smaller.a.weight is smaller.b.weight
    assert smaller.a.weight.shape == (2, 3, 3, 3)


def test_kept_channels_keep_their_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8), conv(8, 4), conv(4, 2))
    graph = amc.trace(model, (images(),))
    smaller = amc.shrink(model, graph.plan({"0": [6, 1], "1": [3]}))
    assert torch.equal(smaller[0].weight, model[0].weight[[1, 6]])
    assert torch.equal(smaller[0].bias, model[0].bias[[1, 6]])
    assert torch.equal(smaller[1].weight, model[1].weight[[3]][:, [1, 6]])
    assert torch.equal(smaller[2].weight, model[2].weight[:, [3]])


def test_plan_for_another_network_is_refused_with_the_tensor() -> None:
    wide = nn.Sequential(conv(3, 8), conv(8, 2))
    plan = amc.trace(wide, (images(),)).plan({"0": [0, 1]})
    for change in (amc.shrink, amc.mask):
        with pytest.raises(amc.AmcError, match=r"another network: 0\.bias has shape \(6,\)"):
            change(nn.Sequential(conv(3, 6), conv(6, 2)), plan)
        with pytest.raises(amc.AmcError, match=r"another network: there is no tensor '0\.bias'"):
            change(nn.Sequential(nn.ReLU(), conv(6, 2)), plan)


def test_shrunk_tensors_load_into_the_original_network() -> None:
    torch.manual_seed(0)
    model = shaken(build("mobilenet_v1", num_classes=4, in_channels=3, width=0.25))
    smaller = amc.shrink(model, random_keep(amc.trace(model, (images(),)), 1))
    assert difference(load_tensors(model, smaller.state_dict()), smaller, (images(),)) == 0
    with pytest.raises(amc.AmcError, match=r"is only in the (network|file)"):
        load_tensors(nn.Sequential(conv(3, 8)), smaller.state_dict())


# --- the bundled networks


@pytest.fixture(scope="module", params=BUNDLED_SETTINGS)
def bundled(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, amc.ChannelGraph]:
    width, size = BUNDLED_SETTINGS[request.param]
    torch.manual_seed(0)
    model = shaken(build(request.param, num_classes=10, in_channels=3, width=width))
    x = images(size=size)
    return model, x, amc.trace(model, (x,))


def test_every_bundled_network_is_tested() -> None:
    assert BUNDLED_SETTINGS.keys() == BUNDLED.keys()


def test_only_input_and_output_of_a_bundled_network_are_frozen(
    bundled: tuple[nn.Module, Tensor, amc.ChannelGraph],
) -> None:
    _, _, graph = bundled
    assert sorted(frozen(graph).values()) == ["network input", "network output"]


def test_shrunk_bundled_network_equals_the_masked_one(
    bundled: tuple[nn.Module, Tensor, amc.ChannelGraph],
) -> None:
    model, x, graph = bundled
    for seed in range(3):
        plan = amc.random_plan(graph, 0.5, seed) if seed else random_keep(graph, seed)
        smaller, masked = amc.shrink(model, plan), amc.mask(model, plan)
        other = torch.randn_like(x)
        assert difference(smaller, masked, (other,)) <= 1e-4
        assert difference(masked, model, (other,)) > 1e-3  # something was removed
        assert graph.macs(plan) == counted_macs(smaller, (x,), x.shape[0]) < graph.macs()
        assert graph.params(plan) == parameters(smaller) < graph.params() == parameters(model)


def test_shrunk_bundled_network_is_an_ordinary_module(
    bundled: tuple[nn.Module, Tensor, amc.ChannelGraph],
) -> None:
    model, x, graph = bundled
    smaller = amc.shrink(model, random_keep(graph, 7)).eval()
    program = torch.export.export(smaller, (x,))
    with torch.no_grad():
        expected = smaller(x)
        torch.testing.assert_close(program.module()(x), expected)
    twin = copy.deepcopy(smaller)
    for value in twin.state_dict().values():
        value.zero_()
    twin.load_state_dict(smaller.state_dict())
    assert difference(twin, smaller, (x,)) == 0

    smaller.train()
    optimizer = torch.optim.SGD(smaller.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in smaller.parameters()]
    loss = F.cross_entropy(smaller(x), torch.tensor([1, 2]))
    loss.backward()
    gradients = [p.grad for p in smaller.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > 0.5 * len(gradients)
    optimizer.step()
    for old, gradient, new in zip(before, gradients, smaller.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old - 1e-2 * gradient)


# --- against another implementation


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet20", "vgg16", "mobilenet_v2"])
def test_coupled_layers_agree_with_torch_pruning(name: str) -> None:
    model = build(name, num_classes=10, in_channels=3, width=0.25).eval()
    x = images(size=32, batch=1)
    graph = amc.trace(model, (x,))
    assert coupled(graph) == coupled_by_torch_pruning(model, x)
