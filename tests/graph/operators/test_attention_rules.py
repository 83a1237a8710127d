"""Heads of attention: one unit each, whatever the code writes; cuts equal the mask."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from one_operator import Net, counted, weight

WIDTH, HEADS, EACH, TOKENS = 8, 3, 4, 5
INNER = HEADS * EACH


def attended(run: Callable[..., Any], packed: bool = False, **parts: Any) -> nn.Module:
    """Tokens of a linear layer, attention, a linear layer that reads it; heads in attributes."""
    layers = {"qkv": 3} if packed else {"q": 1, "k": 1, "v": 1}
    made = {name: nn.Linear(WIDTH, n * INNER) for name, n in layers.items()}
    made |= {name: made_part for name, made_part in parts.items()}
    model = Net(
        lambda m, x: m.head(m.proj(run(m, m.stem(x))).relu()), stem=nn.Linear(3, WIDTH),
        proj=nn.Linear(INNER, WIDTH), head=nn.Linear(WIDTH, 2), heads=HEADS, each=EACH,
        inner=INNER, **made,
    )  # fmt: skip
    return model.eval()


def split(m: Any, x: Tensor) -> list[Tensor]:
    """Queries, keys and values, [batch, heads, tokens, each]."""
    return [
        layer(x).view(*x.shape[:2], m.heads, m.each).transpose(1, 2) for layer in (m.q, m.k, m.v)
    ]


def joined(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(2)


def fused(m: Any, x: Tensor) -> Tensor:
    return joined(F.scaled_dot_product_attention(*split(m, x)))


def by_hand(m: Any, x: Tensor) -> Tensor:
    q, k, v = split(m, x)
    return joined((q @ k.transpose(-2, -1) * m.each**-0.5).softmax(-1) @ v)


def by_einsum(m: Any, x: Tensor) -> Tensor:
    q, k, v = (f(x).view(*x.shape[:2], m.heads, -1) for f in (m.q, m.k, m.v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / 2
    y = torch.einsum("bhij,bjhd->bihd", F.dropout(scores.softmax(3), 0.1, m.training), v)
    return y.reshape(*x.shape[:2], m.inner)


def in_the_batch(m: Any, x: Tensor) -> Tensor:
    """Heads beside samples in the first dimension, as bmm has it."""
    b, n, _ = x.shape
    q, k, v = (
        f(x).view(b, n, m.heads, m.each).transpose(1, 2).reshape(b * m.heads, n, m.each)
        for f in (m.q, m.k, m.v)
    )
    zero = torch.empty(1, 1, 1)
    y = torch.baddbmm(zero, q, k.transpose(1, 2), beta=0, alpha=0.5).softmax(-1).bmm(v)
    return y.view(b, m.heads, n, m.each).transpose(1, 2).reshape(b, n, m.heads * m.each)


def kind_first(m: Any, x: Tensor) -> Tensor:
    """Queries, keys and values, then heads."""
    qkv = m.qkv(x).reshape(*x.shape[:2], 3, m.heads, m.each).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    return joined(F.scaled_dot_product_attention(q, k, v))


def head_first(m: Any, x: Tensor) -> Tensor:
    """Heads, then queries, keys and values."""
    q, k, v = m.qkv(x).view(*x.shape[:2], m.heads, 3 * m.each).transpose(1, 2).chunk(3, dim=-1)
    return joined((q @ k.mT).softmax(-1) @ v)


def head_last(m: Any, x: Tensor) -> Tensor:
    """The entries of a head before the heads."""
    q, k, v = m.qkv(x).view(*x.shape[:2], 3, m.each, m.heads).permute(2, 0, 4, 1, 3)
    y = F.scaled_dot_product_attention(q, k, v)
    return y.permute(0, 2, 3, 1).flatten(2)


def in_one(m: Any, x: Tensor) -> Tensor:
    """Heads of queries, keys and values in one dimension."""
    qkv = m.qkv(x).unflatten(2, (-1, m.each)).transpose(1, 2)
    return joined(F.scaled_dot_product_attention(*qkv.chunk(3, 1)))


def parts_first(m: Any, x: Tensor) -> Tensor:
    """Cut in three before heads are told apart."""
    q, k, v = (y.unflatten(2, (m.heads, -1)).transpose(1, 2) for y in m.qkv(x).chunk(3, dim=-1))
    return joined((q @ k.mT).softmax(-1) @ v)


def picked(m: Any, x: Tensor) -> Tensor:
    qkv = m.qkv(x).view(*x.shape[:2], 3, m.heads, m.each).permute(2, 0, 3, 1, 4)
    return joined(F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]))


def some(quick: int, *runs: Callable[..., Tensor]) -> list[Any]:
    """The first of them, and the others for the slow suite."""
    slow = (pytest.param(run, marks=pytest.mark.slow) for run in runs[quick:])
    return [*runs[:quick], *slow]


PLAIN = some(3, fused, by_einsum, in_the_batch, by_hand)
PACKED = some(3, kind_first, head_first, in_one, head_last, parts_first, picked)


def check(model: nn.Module, x: Tensor, members: dict[tuple[str, int], int], size: int) -> None:
    """The heads are these slices of these tensors; every cut is the mask and costs what it does.

    Args:
        model: has one attention.
        x: its input.
        members: (tensor, dimension) -> slices for each head.
        size: heads.
    """
    graph = amc.trace(model, (x,))
    (group,) = [g for g in graph.groups if g.unit == "head"]
    assert (group.size, group.reason, group.readers) == (size, "", ("proj",))
    found = {(m.tensor, m.dim): m.index.shape[1] for m in group.members if m.tensor[0] != "@"}
    assert found == members
    assert graph.macs() == counted(model, x)
    for kept in ([0], [size - 1], range(1, size), range(size - 1)):
        plan = graph.plan({group.name: list(kept)})
        small, masked = amc.shrink(model, plan), amc.mask(model, plan)
        with torch.no_grad():
            assert torch.allclose(small(x), masked(x), atol=1e-5)
            assert not torch.allclose(small(x), model(x), atol=1e-3)
        assert graph.macs(plan) == counted(small, x)
        assert graph.params(plan) == sum(p.numel() for p in small.parameters())


SEPARATE: dict[tuple[str, int], int] = {
    (f"{layer}.{kind}", 0): EACH for layer in "qkv" for kind in ("weight", "bias")
} | {("proj.weight", 1): EACH}
TOGETHER = {("qkv.weight", 0): 3 * EACH, ("qkv.bias", 0): 3 * EACH, ("proj.weight", 1): EACH}


@pytest.mark.parametrize("run", PLAIN)
def test_heads_of_separate_layers(run: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    check(attended(run), torch.randn(2, TOKENS, 3), SEPARATE, HEADS)


@pytest.mark.parametrize("run", PACKED)
def test_heads_of_one_layer(run: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    check(attended(run, packed=True), torch.randn(2, TOKENS, 3), TOGETHER, HEADS)


@pytest.mark.parametrize("run", some(2, fused, by_einsum, by_hand, in_the_batch))
def test_products_of_attention_follow_the_heads(run: Callable[..., Tensor]) -> None:
    """However they are written, counted by hand."""
    model = attended(run)
    graph = amc.trace(model, (torch.randn(2, TOKENS, 3),))
    for heads in (1, 2, 3):
        layers = TOKENS * (3 * WIDTH + 4 * WIDTH * heads * EACH + WIDTH * 2)
        products = heads * 2 * TOKENS * TOKENS * EACH
        name = next(g.name for g in graph.groups if g.unit == "head")
        assert graph.macs(graph.plan({name: range(heads)})) == layers + products
    assert graph.cost.macs(np.array([graph.sizes[n] for n in graph.sizes])) == graph.macs()


# --- what else has heads


def table(m: Any, x: Tensor) -> Tensor:
    """Swin's and BEiT's: a table of positions, one column for each head."""
    bias = m.table[m.index.view(-1)].view(TOKENS, TOKENS, -1).permute(2, 0, 1)
    return joined(F.scaled_dot_product_attention(*split(m, x), attn_mask=bias[None]))


def offsets(m: Any, x: Tensor) -> Tensor:
    """LeViT's: a row for each head."""
    q, k, v = split(m, x)
    return joined((q @ k.mT + m.table[:, m.index]).softmax(-1) @ v)


def buckets(m: Any, x: Tensor) -> Tensor:
    """T5's: an embedding."""
    q, k, v = split(m, x)
    bias = m.table(m.index).permute(2, 0, 1).unsqueeze(0)
    return joined((q @ k.mT + bias).softmax(-1) @ v)


def slopes(m: Any, x: Tensor) -> Tensor:
    """ALiBi."""
    q, k, v = split(m, x)
    bias = m.table.view(1, -1, 1, 1) * m.index.view(1, 1, TOKENS, TOKENS)
    return joined((q @ k.mT + bias).masked_fill(m.index == 2, -1e4).softmax(-1) @ v)


def scales(m: Any, x: Tensor) -> Tensor:
    """Swin V2's: cosines, scaled head by head."""
    q, k, v = split(m, x)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * m.table.exp()
    return joined(scores.softmax(-1) @ v)


def gates(m: Any, x: Tensor) -> Tensor:
    """A number for each head behind the attention."""
    y = F.scaled_dot_product_attention(*split(m, x), attn_mask=m.index == 2)
    return joined(y * m.table.sigmoid())


INDEX = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs()
BIASES: dict[str, tuple[Callable[..., Tensor], Any, tuple[str, int]]] = {
    "table": (table, weight(TOKENS, HEADS), ("table", 1)),
    "offsets": (offsets, weight(HEADS, TOKENS), ("table", 0)),
    "buckets": (buckets, nn.Embedding(TOKENS, HEADS), ("table.weight", 1)),
    "slopes": (slopes, torch.tensor([0.5, 0.25, 0.1]), ("table", 0)),
    "scales": (scales, weight(HEADS, 1, 1), ("table", 0)),
    "gates": (gates, weight(1, HEADS, 1, 1), ("table", 1)),
}


@pytest.mark.parametrize(
    "name",
    [*list(BIASES)[:3], *(pytest.param(n, marks=pytest.mark.slow) for n in list(BIASES)[3:])],
)
def test_what_every_head_has_of_its_own(name: str) -> None:
    torch.manual_seed(0)
    run, held, where = BIASES[name]
    model = attended(run, table=held, index=INDEX)
    check(model, torch.randn(2, TOKENS, 3), SEPARATE | {where: 1}, HEADS)


def turned(m: Any, x: Tensor) -> Tensor:
    """Rotary embeddings and a norm within each head."""
    q, k, v = split(m, x)

    def turn(y: Tensor) -> Tensor:
        one, other = m.norm(y).chunk(2, -1)
        return m.norm(y) * m.cos + torch.cat([-other, one], -1) * m.sin

    return joined(F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True))


def test_what_all_heads_share_stays() -> None:
    torch.manual_seed(0)
    waves = torch.randn(TOKENS, EACH)
    model = attended(turned, norm=nn.LayerNorm(EACH), cos=waves.cos(), sin=waves.sin())
    check(model, torch.randn(2, TOKENS, 3), SEPARATE, HEADS)


# --- keys and values that several heads share


def grouped(m: Any, x: Tensor) -> Tensor:
    q, k, v = (f(x).unflatten(2, (-1, m.each)).transpose(1, 2) for f in (m.q, m.k, m.v))
    return joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))


def repeated(m: Any, x: Tensor) -> Tensor:
    q, k, v = (f(x).unflatten(2, (-1, m.each)).transpose(1, 2) for f in (m.q, m.k, m.v))
    k, v = (y.repeat_interleave(2, dim=1) for y in (k, v))
    return joined((q @ k.mT).softmax(-1) @ v)


def expanded(m: Any, x: Tensor) -> Tensor:
    """As Hugging Face repeats them."""
    q, k, v = (f(x).unflatten(2, (-1, m.each)).transpose(1, 2) for f in (m.q, m.k, m.v))
    b, _, n, d = q.shape
    k, v = (
        y[:, :, None].expand(b, y.shape[1], 2, n, d).reshape(b, 2 * y.shape[1], n, d)
        for y in (k, v)
    )
    return joined(F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("run", some(1, grouped, repeated, expanded))
def test_heads_that_share_keys_go_together(run: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    keys = {name: nn.Linear(WIDTH, INNER // 2) for name in ("k", "v")}
    parts = {"q": nn.Linear(WIDTH, INNER), **keys}
    model = attended(run).requires_grad_(True)
    model.each = 2
    for name, part in parts.items():
        setattr(model, name, part)
    members = {
        (f"{layer}.{kind}", 0): 4 if layer == "q" else 2
        for layer in "qkv"
        for kind in ("weight", "bias")
    }
    check(model.eval(), torch.randn(2, TOKENS, 3), members | {("proj.weight", 1): 4}, 3)


# --- numbers of heads in the code


def test_as_many_heads_as_entries_of_one() -> None:
    """The attribute that follows is the one that stands where the heads are."""
    torch.manual_seed(0)

    def run(m: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = m.qkv(x).view(b, n, 3, m.heads, m.each).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return y.reshape(b, n, m.heads, m.each).flatten(2)

    model = attended(run, packed=True)
    model.heads = model.each = 4
    model.qkv, model.proj = nn.Linear(WIDTH, 48), nn.Linear(16, WIDTH)
    check(model, torch.randn(2, TOKENS, 3), TOGETHER | {("proj.weight", 1): 4}, 4)


def in_convolutions(m: Any, x: Tensor) -> Tensor:
    """As YOLO11 attends: parts of a head of unequal size, cut at attributes."""
    y = x.mT
    q, k, v = (
        m.qkv(y).view(len(y), m.heads, 2 * m.key + m.each, -1).split([m.key, m.key, m.each], dim=2)
    )
    weights = ((q.mT @ k) * m.scale).softmax(-1)
    return (v @ weights.mT).flatten(1, 2).mT


@pytest.mark.parametrize("heads", [True, False])
def test_what_is_within_heads_goes_where_they_are_not_asked_for(heads: bool) -> None:
    torch.manual_seed(0)
    qkv = nn.Conv1d(WIDTH, HEADS * (2 * 2 + EACH), 1)
    model = attended(in_convolutions, packed=True, key=2, scale=0.7)
    model.qkv = qkv
    graph = amc.trace(model, (torch.randn(1, TOKENS, 3),), heads=heads)
    found = {g.name: (g.size, g.width, g.unit) for g in graph.decisions if "qkv" in g.name}
    within = {"qkv": (2, 6, "channel"), "qkv#2": (4, 3, "channel")}
    assert found == ({"qkv": (3, 8, "head")} if heads else within)


def test_fused_attention_says_that_heads_may_go_where_they_are_not_asked_for() -> None:
    graph = amc.trace(attended(fused), (torch.randn(2, TOKENS, 3),), heads=False)
    why = "scaled_dot_product_attention mixes channels; whole heads may go"
    assert {g.reason.split(" (")[0] for g in graph.groups if "q" in g.writers} == {why}


# --- where heads cannot go


def by_number(m: Any, x: Tensor) -> Tensor:
    q, k, v = (f(x).view(*x.shape[:2], 3, -1).transpose(1, 2) for f in (m.q, m.k, m.v))
    return joined((q @ k.mT).softmax(-1) @ v)


def test_entries_of_heads_go_where_the_number_of_heads_is_written_in_the_code() -> None:
    torch.manual_seed(0)
    model, x = attended(by_number), torch.randn(2, TOKENS, 3)
    graph = amc.trace(model, (x,))
    assert {g.name: (g.size, g.width, g.unit) for g in graph.decisions} == {
        "stem": (8, 1, "channel"), "q": (4, 3, "channel"), "v": (4, 3, "channel"),
        "proj": (8, 1, "channel"),
    }  # fmt: skip
    for seed in range(3):
        rng = np.random.default_rng(seed)
        plan = graph.plan(
            {g.name: rng.permutation(g.size)[: rng.integers(1, 5)] for g in graph.decisions}
        )
        with torch.no_grad():
            assert torch.allclose(amc.shrink(model, plan)(x), amc.mask(model, plan)(x), atol=1e-5)


def test_fused_attention_whose_heads_are_written_in_the_code_stays() -> None:
    model = attended(
        lambda m, x: joined(
            F.scaled_dot_product_attention(
                *(f(x).view(*x.shape[:2], 3, 4).transpose(1, 2) for f in (m.q, m.k, m.v))
            )
        )
    )
    graph = amc.trace(model, (torch.randn(2, TOKENS, 3),))
    (group,) = [g for g in graph.groups if "q" in g.writers]
    assert group.reason.startswith("a size is written in forward")
