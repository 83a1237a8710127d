"""Small networks, one per way in which channels can hang together, and their groups by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import amc
from oracles import counting

BUNDLED_SETTINGS: dict[str, tuple[float, int]] = {  # width, image size
    "resnet20": (1.0, 16),
    "resnet56": (0.5, 12),
    "resnet50": (0.125, 32),
    "plain20": (1.0, 16),
    "vgg16": (0.25, 32),
    "mobilenet_v1": (0.5, 16),
    "mobilenet_v2": (0.5, 16),
    "vit": (0.5, 16),
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
    """Norms, and linear layers that begin with zeros, drawn at random: nothing cancels."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for module in model.modules():
        with torch.no_grad():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(draw(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(draw(module.running_var, 0.7, 1.5))
                module.weight.copy_(draw(module.weight, 0.6, 1.1))
                module.bias.copy_(draw(module.bias, -0.3, 0.3))
            if isinstance(module, nn.Linear) and not bool(module.weight.any()):
                module.weight.copy_(draw(module.weight, -0.2, 0.2))
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
    with torch.no_grad(), counting() as counter:
        model(*inputs)
    assert counter.get_total_flops() % (2 * batch) == 0
    return counter.get_total_flops() // (2 * batch)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def drawn(graph: amc.ChannelGraph) -> dict[str, tuple[int, str, str]]:
    return {g.name: (g.size, " ".join(g.writers), " ".join(g.readers)) for g in graph.decisions}


def frozen(graph: amc.ChannelGraph) -> dict[str, str]:
    return {g.name: g.reason for g in graph.groups if not g.prunable}


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


def heads() -> Case:
    """Attention: the entries of a head go together."""

    def run(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(m.stem(x).flatten(2).mT).unflatten(2, (3, -1, 4)).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT).softmax(3) @ v
        return m.head(m.proj(y.transpose(1, 2).flatten(2)))

    model = Net(
        run, stem=conv(3, 6), qkv=nn.Linear(6, 36), proj=nn.Linear(12, 5), head=nn.Linear(5, 2)
    )
    groups = {"stem": (6, "stem", "qkv"), "qkv": (3, "qkv", "proj"), "proj": (5, "proj", "head")}
    return Case(model, (images(),), groups)


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
    chain, heads, residual_identity, residual_projection, concatenation, dense_connections,
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
