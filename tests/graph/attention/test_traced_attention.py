"""From a network with attention to one with fewer heads: found, proven, cut."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import amc
from amc.graph.attention.multihead import CutAttention
from amc.graph.channel_graph import ChannelGraph
from drawn_networks import random_keep
from written_attention import ATTENTION, WIDTH


class Block(nn.Module):
    """A residual branch of attention, as in any transformer."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(5, WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.head = attention, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head((x + self.attn(self.norm(x))).mean(1))


class Queries(nn.Module):
    """Queries that are learnt look at a map, as in DETR and in attention pooling."""

    def __init__(self, returned: str = "", **options: Any) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.conv = nn.Conv2d(3, options.get("kdim", WIDTH), 4, 4)
        self.norm, self.returned = nn.LayerNorm(options.get("kdim", WIDTH)), returned
        self.attn = nn.MultiheadAttention(WIDTH, 6, batch_first=True, **options)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Any:
        keys = self.norm(self.conv(x).flatten(2).mT)
        queries = self.queries.expand(len(x), -1, -1)
        average = self.returned != "each"
        out, weights = self.attn(queries, keys, keys, average_attn_weights=average)
        return (self.head(out), weights) if self.returned else self.head(out)


def tokens(*lengths: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, length, WIDTH) for length in lengths)


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8),)


Made = tuple[nn.Module, tuple[Tensor, ...], int]

LAYER: dict[str, Any] = {"dim_feedforward": 16, "dropout": 0.1, "batch_first": True}

NETWORKS: Mapping[str, Callable[[], Made]] = {
    "encoder layer": lambda: (nn.TransformerEncoderLayer(WIDTH, 6, **LAYER), tokens(4), 1),
    "length first": lambda: (nn.TransformerEncoderLayer(WIDTH, 6, 16), tokens(4), 1),
    "decoder layer": lambda: (nn.TransformerDecoderLayer(WIDTH, 6, **LAYER), tokens(5, 7), 2),
    "transformer": lambda: (nn.Transformer(WIDTH, 6, 1, 1, **LAYER), tokens(7, 5), 3),
    "queries": lambda: (Queries(), images(), 1),
    "own widths": lambda: (Queries(kdim=10, vdim=10), images(), 1),
    "no bias": lambda: (Queries(kdim=10, vdim=10, bias=False), images(), 1),
    "bias of keys": lambda: (Queries(add_bias_kv=True, add_zero_attn=True), images(), 1),
}


def heads_of(graph: ChannelGraph) -> list[str]:
    return [group.name for group in graph.decisions if group.unit == "head"]


def check(model: nn.Module, inputs: tuple[Tensor, ...], heads: int) -> nn.Module:
    graph = amc.trace(model, inputs)
    assert len(heads_of(graph)) == heads and all(graph.sizes[x] == 6 for x in heads_of(graph))
    for seed in range(4):
        plan = random_keep(graph, seed)
        small, masked = amc.shrink(model, plan), amc.mask(model, plan)
        for mode in (False, True):  # with PyTorch's fast kernels, and without
            with torch.set_grad_enabled(mode):
                found, wanted = small(*inputs), masked(*inputs)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        assert graph.params(plan) == sum(p.numel() for p in small.parameters())
    assert amc.trace(small, inputs).macs() == graph.macs(plan)
    return small


def quick(names: Mapping[str, Any], *chosen: str) -> list[Any]:
    """All of them; others than the chosen ones belong to the slow suite."""
    slow = pytest.mark.slow
    return [pytest.param(x, id=n, marks=() if n in chosen else slow) for n, x in names.items()]


@pytest.mark.parametrize("make", quick(NETWORKS, "encoder layer", "decoder layer", "own widths"))
def test_heads_of_pytorchs_attention(make: Callable[[], Made]) -> None:
    torch.manual_seed(0)
    model, inputs, heads = make()
    check(model.eval(), inputs, heads)


@pytest.mark.parametrize("kind", quick(ATTENTION, "Packed", "Language", "Reduced"))
def test_heads_of_attention_by_hand(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    small = check(Block(kind()).eval(), (torch.randn(2, 4, 5),), 1)
    assert isinstance(small.attn, kind)


def test_cost_of_a_projection_in_parts() -> None:
    """Queries of five tokens, keys and values of seven; counted by hand."""
    model = nn.TransformerDecoderLayer(WIDTH, 6, **LAYER).eval()
    graph = amc.trace(model, tokens(5, 7))
    layer = next(x for x in graph.layers if x.name == "multihead_attn.in_proj_weight")
    assert layer.kind == "linear_rows" and layer.calls == 2
    own = 5 * 4 * WIDTH**2 + 2 * 5 * 5 * WIDTH  # of self-attention
    cross = (2 * 5 + 2 * 7) * WIDTH**2 + 2 * 5 * 7 * WIDTH
    rest = 5 * 2 * WIDTH * 16
    assert graph.macs() == own + cross + rest
    plan = graph.plan({"multihead_attn.in_proj_weight": [1, 4]})
    assert graph.macs(plan) == own + cross // 3 + rest


def test_weights_that_the_network_returns() -> None:
    """Their mean would be over other heads; those of each head would be fewer."""
    for returned, why in (("mean", "mean mixes channels"), ("each", "network output")):
        graph = amc.trace(Queries(returned).eval(), images())
        found = [g.reason for g in graph.groups if g.unit == "head"]
        assert not heads_of(graph) and found and all(x.startswith(why) for x in found)


def test_training_goes_on() -> None:
    torch.manual_seed(0)
    model, inputs, _ = NETWORKS["encoder layer"]()
    graph = amc.trace(model.eval(), inputs)
    small = amc.shrink(model, graph.plan({heads_of(graph)[0]: [0, 2, 3, 5]})).train()
    assert isinstance(small.self_attn, CutAttention)
    optimizer, losses = torch.optim.Adam(small.parameters(), 1e-2), list[float]()
    for _ in range(30):
        loss = small(*inputs).sub(1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None for p in tree_leaves(list(small.parameters())))
