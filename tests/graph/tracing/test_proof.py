"""What a cut would change stays whole, for a true reason; computed weights; training only."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import amc
from amc.graph.capture.export import Inputs
from amc.graph.tracing.proof import objection
from one_operator import check_cuts, images, inner, least, unit

# --- weights that are computed


class ScaledStdConv(nn.Conv2d):
    """Of normaliser-free networks (Brock et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, **options: Any) -> None:
        super().__init__(inputs, outputs, kernel, **options)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        scale = (self.gain * self.scale).view(-1)
        weight = F.batch_norm(flat, None, None, scale, training=True, momentum=0.0, eps=1e-6)
        weight = weight.reshape_as(self.weight)
        return F.conv2d(
            x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class FreeBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, make: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.a, self.b = (
            make(inputs, outputs // 2, 1),
            make(outputs // 2, outputs // 2, 3, padding=1),
        )
        self.c, self.skip = make(outputs // 2, outputs, 1), make(inputs, outputs, 1)
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(x) * 0.9
        y = self.c(F.silu(self.b(F.silu(self.a(x)))))
        y.mul_(self.gain)
        return y * 0.2 + self.skip(x)


def normaliser_free(make: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        make(3, 8, 3, padding=1), FreeBlock(8, 16, make), FreeBlock(16, 24, make),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


def test_normaliser_free_network_says_what_helps_and_is_cut_once_baked() -> None:
    torch.manual_seed(0)
    model, x = normaliser_free(ScaledStdConv).eval(), images()
    reasons = [g.reason for g in amc.trace(model, (x,)).groups]
    assert any("amc.bake makes it a plain layer" in reason for reason in reasons)
    baked = amc.bake(model, (x,))
    graph, plain = amc.trace(baked, (x,)), amc.trace(normaliser_free(nn.Conv2d).eval(), (x,))
    assert graph.sizes == plain.sizes
    assert graph.macs(least(graph)) == plain.macs(least(plain))
    check_cuts(baked, graph, x)


def test_network_of_computed_weights_has_a_table_with_the_reason() -> None:
    layers = (nn.Conv1d(4, 16, 3), nn.ReLU(), nn.Conv1d(16, 2, 1))
    model = nn.Sequential(
        *(parametrizations.weight_norm(m) if isinstance(m, nn.Conv1d) else m for m in layers)
    )
    graph = amc.trace(model, (torch.randn(2, 4, 9),))
    assert [(g.name, g.size) for g in graph.groups] == [("0", 16), ("2", 2)]
    with pytest.raises(amc.AmcError, match=r"computed in forward; amc\.bake makes it a plain"):
        amc.random_plan(graph, 0.5)


# --- what masks and cuts do differently stays whole, for a true reason

DIFFERENT: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "mean": (lambda m, x: x / (x.mean(1, keepdim=True) + 1), "mean mixes channels"),
    "removed channels are not zero": (
        lambda m, x: (y := x.sigmoid()) / y.sum(1, keepdim=True), "sum mixes channels"
    ),
    "softmax": (lambda m, x: x.softmax(1), "softmax mixes channels"),
    "largest": (lambda m, x: x - x.amax(1, keepdim=True), "amax mixes channels"),
    "scale by the number of channels": (
        lambda m, x: x * (torch.einsum("bchw,bchw->bhw", x, x) / x.shape[1] ** 0.5)[:, None],
        "einsum mixes channels",
    ),
    "groups of half the channels": (
        lambda m, x: F.group_norm(x, 2), "group_norm has a number of groups"
    ),
    "written positions": (
        lambda m, x: torch.cat([x[:, :4] * 2, x[:, 4:]], 1), "slice takes channels at positions"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_a_cut_would_change_is_frozen(what: str) -> None:
    torch.manual_seed(0)
    run, reason = DIFFERENT[what]
    graph = amc.trace(inner(run).eval(), (images(),))
    assert graph.sizes == {}
    assert reason in next(g.reason for g in graph.groups if g.name == "stem.0")


# --- layers that only training executes


class Deep(nn.Module):
    """A trunk with a head that is always there, and one that only training has."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = unit(3, 16), unit(16, 16), unit(16, 12, 3, 2)
        self.head, self.always = nn.Linear(12, 5), always
        self.aux = nn.Sequential(unit(16, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        keep = x.new_empty(len(x), 1, 1, 1).bernoulli_(0.8) if self.training else 1
        x = x + self.b(x) * keep
        y = self.head(self.c(x).mean((2, 3)))
        if self.training or self.always:
            return y, self.out(F.dropout(self.aux(x), 0.2, self.training))
        return y


def test_layers_that_only_training_executes_follow_the_trunk() -> None:
    torch.manual_seed(0)
    model, x = Deep(always=False), images()
    graph = amc.trace(model, (x,))
    assert graph.sizes == {"a.0": 16, "c.0": 12}
    reasons = {g.name: g.reason for g in graph.groups}
    assert "only training executes it" in reasons.values()
    check_cuts(model.eval(), graph, x)
    smaller = amc.shrink(model, graph.plan({"a.0": [0, 3, 7]})).train()
    assert smaller.aux[0][0].in_channels == 3
    assert [tuple(y.shape) for y in smaller(x)] == [(2, 5), (2, 5)]


class Along(nn.Module):
    """A residual branch under a gate that a convolution along its channels computes."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.shortcut, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
        self.along = conv

    def forward(self, x: Tensor) -> Tensor:
        """Images to four maps."""
        x = torch.relu(self.stem(x))
        y = self.body(x)
        gate = torch.sigmoid(self.along(y.mean((2, 3)).unsqueeze(1))).transpose(1, 2)
        y = y * gate.unsqueeze(3)
        y += self.shortcut(x)
        return self.head(torch.relu(y))


@pytest.mark.parametrize("conv", [nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 1)])
def test_what_is_added_to_channels_that_are_read_along_stays_for_their_reason(
    conv: nn.Module,
) -> None:
    graph = amc.trace(Along(conv).eval(), (torch.randn(2, 3, 8, 8),))
    whole = {m.tensor: g.reason for g in graph.groups if not g.prunable for m in g.members}
    assert whole["shortcut.weight"] == whole["body.weight"]
    assert "along another dimension" in whole["shortcut.weight"]
    assert [g.name for g in graph.decisions] == ["stem"]


# --- rounding


class Rounding(nn.Conv2d):
    """A convolution whose error depends on how many channels it has, as Winograd's does."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if out.dtype == torch.float32:
            out = out * (1 + 1e-3 / self.weight.shape[1])
        return out


class Wrong(nn.Module):
    """Loses a part in a thousand for every channel that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x) * (1 + 1e-3 * x.shape[1])


def test_kernels_that_round_otherwise_for_other_widths_are_no_wrong_cut() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Rounding(8, 4, 3))
    inputs = Inputs((torch.randn(2, 3, 8, 8),), {})
    graph = amc.trace(model, inputs.args)
    assert graph.sizes == {"0": 8}
    assert not objection(model, inputs, graph, graph.plan({"0": range(3)}))


def test_small_differences_that_64_bits_have_as_well_are_a_wrong_cut() -> None:
    inputs = Inputs((torch.randn(2, 3, 8, 8),), {})
    graph = amc.trace(Wrong(), inputs.args)
    assert not graph.sizes
    assert any("differs from the masked one" in group.reason for group in graph.groups)
