"""MACs and parameters against numbers counted by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc.models.catalog import build


class Small(nn.Module):
    """Every kind of layer that is counted, in a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # 12 x 12 -> 6 x 6
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.grouped = nn.Conv2d(8, 12, (3, 1), groups=2)  # 6 x 6 -> 4 x 6
        self.up = nn.ConvTranspose2d(12, 4, 2, stride=2)  # 4 x 6 -> 8 x 12
        self.hidden = nn.Linear(4 * 8 * 12, 10)
        self.head = nn.Linear(10, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.plain(x)))
        x = self.up(torch.relu(self.grouped(self.depthwise(x))))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


BY_HAND = {
    "plain": 36 * 9 * 3 * 8,
    "depthwise": 36 * 9 * 8,
    "grouped": 24 * 3 * (8 // 2) * 12,
    "up": 24 * 4 * 12 * 4,  # every input pixel meets the whole kernel
    "hidden": 384 * 10,
    "head": 10 * 5,
}


@pytest.fixture(scope="module")
def graph() -> amc.ChannelGraph:
    torch.manual_seed(0)
    return amc.trace(Small(), (torch.randn(3, 3, 12, 12),))


def test_macs_of_every_layer_are_those_counted_by_hand(graph: amc.ChannelGraph) -> None:
    assert {layer.name: layer.macs for layer in graph.layers} == BY_HAND
    assert graph.macs() == sum(BY_HAND.values())
    assert graph.other_macs == 0


def test_params_are_those_counted_by_hand(graph: amc.ChannelGraph) -> None:
    by_hand = (
        (8 * 27 + 8) + (8 + 8) + 8 * 9 + (12 * 4 * 3 + 12) + (12 * 4 * 4 + 4)
        + (384 * 10 + 10) + 10 * 5
    )  # fmt: skip
    assert graph.params() == graph.total_params == by_hand


def test_costs_after_a_cut_are_those_counted_by_hand(graph: amc.ChannelGraph) -> None:
    assert graph.sizes == {"plain": 4, "grouped": 6, "up": 4, "hidden": 10}
    counts = np.array([3, 2, 1, 7])  # 6, 4, 1 channels and 7 features
    macs = [36 * 9 * 3 * 6, 36 * 9 * 6, 24 * 3 * 3 * 4, 24 * 4 * 4 * 1, 96 * 7, 7 * 5]
    params = (
        (6 * 27 + 6) + (6 + 6) + 6 * 9 + (4 * 3 * 3 + 4) + (4 * 1 * 4 + 1) + (96 * 7 + 7) + 7 * 5
    )
    assert graph.cost.layer_macs(counts).tolist() == macs
    assert graph.cost.macs(counts) == sum(macs)
    assert graph.cost.params(counts) == params
    inputs, outputs = graph.cost.layer_channels(counts)
    assert inputs.tolist() == [3, 1, 3, 4, 96, 7]  # slices of the weight, so per group
    assert outputs.tolist() == [6, 6, 4, 1, 7, 5]


def test_kinds_and_shapes_of_layers_are_recorded(graph: amc.ChannelGraph) -> None:
    facts = {x.name: (x.kind, x.in_channels, x.out_channels, x.groups) for x in graph.layers}
    assert facts == {
        "plain": ("conv2d", 3, 8, 1),
        "depthwise": ("depthwise", 8, 8, 8),
        "grouped": ("conv2d", 8, 12, 2),
        "up": ("conv_transpose2d", 12, 4, 1),
        "hidden": ("linear", 384, 10, 1),
        "head": ("linear", 10, 5, 1),
    }
    plain = graph.layer("plain")
    assert (plain.height, plain.width, plain.stride, plain.kernel) == (12, 12, 2, 3)
    with pytest.raises(amc.AmcError, match=r"unknown layer 'tail'; layers are plain, depthwise"):
        graph.layer("tail")


def test_the_three_ways_to_ask_for_macs_agree(graph: amc.ChannelGraph) -> None:
    rng = np.random.default_rng(0)
    sizes = [g.size for g in graph.decisions]
    counts = np.array([[rng.integers(1, n + 1) for n in sizes] for _ in range(50)])
    single = [graph.cost.macs(row) for row in counts]
    assert graph.cost.macs_of(counts).tolist() == single
    assert [int(graph.cost.layer_macs(row).sum()) for row in counts] == single


def test_macs_do_not_depend_on_the_batch() -> None:
    one, five = (amc.trace(Small(), (torch.randn(n, 3, 12, 12),)) for n in (1, 5))
    assert one.macs() == five.macs()
    assert one.cost.macs(np.array([1, 2, 3, 4])) == five.cost.macs(np.array([1, 2, 3, 4]))


def test_layer_used_twice_costs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.again(self.again(self.stem(x))))  # 8 x 8, 6 x 6, 4 x 4

    graph = amc.trace(Twice(), (torch.randn(2, 3, 8, 8),))
    again = graph.layer("again")
    assert (again.calls, again.macs) == (2, (36 + 16) * 9 * 16)
    assert graph.macs() == 64 * 12 + (36 + 16) * 9 * 16 + 16 * 8
    assert graph.cost.macs(np.array([3])) == 64 * 9 + (36 + 16) * 9 * 9 + 16 * 6
    assert graph.params() == 16 + (9 * 16 + 4) + 10  # but is there once


def test_matrix_products_are_counted_and_never_shrink() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mix = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
            self.head = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.mix(self.stem(x)).flatten(2)  # [B, 6, 16]
            return self.head((tokens @ tokens.transpose(1, 2)).mean(1))

    graph = amc.trace(Attention(), (torch.randn(2, 3, 4, 4),))
    assert graph.other_macs == 6 * 16 * 6
    assert graph.sizes == {"stem": 8}
    assert graph.cost.macs(np.array([5])) == 16 * 3 * 5 + 16 * 5 * 6 + 6 * 16 * 6 + 6 * 2


def test_fused_layers_are_counted_like_their_parts() -> None:
    """In eval mode PyTorch may run this layer as one operator, which no counter knows."""
    graph = amc.trace(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (torch.randn(2, 5, 8),)
    )
    assert graph.other_macs == 0
    attention = 2 * (2 * 5 * 5 * 4)
    assert graph.macs() == 5 * 8 * 24 + attention + 5 * 8 * 8 + 2 * (5 * 8 * 16)
    assert graph.sizes == {"self_attn.in_proj_weight": 2, "linear1": 16}


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        # He et al. 2016, table 6: 0.27 M and 0.85 M parameters; here with 1 x 1 projections
        ("resnet20", 40_813_184, 272_474),
        ("resnet56", 125_747_840, 855_770),
        ("plain20", 40_551_040, 269_722),
    ],
)
def test_published_networks_have_their_published_size(name: str, macs: int, params: int) -> None:
    x = torch.zeros(1, 3, 32, 32)
    model = build(name, num_classes=10, in_channels=3).eval()
    graph = amc.trace(model, (x,))
    assert (graph.macs(), graph.params()) == (macs, params)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() == 2 * macs


def test_resnet50_has_its_published_size() -> None:
    """25.6 M parameters, and 4.1 GMACs with the stride on the 3 x 3 convolutions."""
    model = build("resnet50", num_classes=1000, in_channels=3).eval().to("meta")
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    assert counter.get_total_flops() == 2 * 4_089_184_256
    assert {"layer1.0.downsample.1.running_var", "layer4.2.conv3.weight", "fc.bias"} <= set(
        model.state_dict()
    )


def test_resnet20_macs_add_up_stage_by_stage() -> None:
    blocks = 6 * 32 * 32 * 9 * 16 * 16
    second = 16 * 16 * 9 * (16 * 32 + 5 * 32 * 32) + 16 * 16 * 16 * 32
    third = 8 * 8 * 9 * (32 * 64 + 5 * 64 * 64) + 8 * 8 * 32 * 64
    by_hand = 32 * 32 * 9 * 3 * 16 + blocks + second + third + 64 * 10
    graph = amc.trace(
        build("resnet20", num_classes=10, in_channels=3), (torch.zeros(1, 3, 32, 32),)
    )
    assert graph.macs() == by_hand == 40_813_184
