"""What goes together, against hand-drawn groups and torch-pruning; what stays whole, and why."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.models.catalog import build
from drawn_networks import CASES, Case, Net, conv, counted_macs, drawn, frozen, images, shaken
from oracles import coupled, coupled_by_torch_pruning

# --- small networks, one per way in which channels can hang together


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_groups_are_those_drawn_by_hand(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    case = make()
    assert drawn(amc.trace(shaken(case.model), case.inputs)) == case.groups


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
    assert reason == f"cumsum mixes channels (test_groups.py:{line})"


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
    assert re.match(
        rf"DataDependent cannot be traced: .*test_groups\.py:{line} `return x", message
    )
    assert message.endswith("use torch.where, or move that part out of forward")


def test_model_that_does_not_run_is_refused_in_one_line() -> None:
    with pytest.raises(amc.UnsupportedModelError, match=r"^Sequential does not run") as caught:
        amc.trace(nn.Sequential(conv(4, 8)), (images(3),))
    assert "\n" not in str(caught.value)


# --- against another implementation


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet20", "vgg16", "mobilenet_v2"])
def test_coupled_layers_agree_with_torch_pruning(name: str) -> None:
    model = build(name, num_classes=10, in_channels=3, width=0.25).eval()
    x = images(size=32, batch=1)
    graph = amc.trace(model, (x,))
    assert coupled(graph) == coupled_by_torch_pruning(model, x)
