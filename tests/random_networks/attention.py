"""Attention in heads: the layers before it, the order of views, what is added, what reads it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from random_networks.builder import Builder, Part, Step, kind
from random_networks.layers import pick

Split = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Tokens, and those that keys and values are made of -> q, k, v, [batch, heads, tokens, each]."""


def _separate(m: Any, x: Tensor, y: Tensor) -> Any:
    made = ((m.q, x), (m.k, y), (m.v, y))
    return tuple(f(z).view(*z.shape[:2], m.heads, m.each).transpose(1, 2) for f, z in made)


def _adapting(m: Any, x: Tensor, y: Tensor) -> Any:
    made = ((m.q, x), (m.k, y), (m.v, y))
    return tuple(f(z).view(*z.shape[:2], -1, m.each).permute(0, 2, 1, 3) for f, z in made)


def _within(m: Any, x: Tensor, y: Tensor) -> Any:
    """The entries of a head before the heads."""
    made = ((m.q, x), (m.k, y), (m.v, y))
    return tuple(f(z).unflatten(2, (m.each, m.heads)).permute(0, 3, 1, 2) for f, z in made)


def _kind_first(m: Any, x: Tensor, y: Tensor) -> Any:
    return m.qkv(x).reshape(*x.shape[:2], 3, m.heads, m.each).permute(2, 0, 3, 1, 4).unbind(0)


def _head_first(m: Any, x: Tensor, y: Tensor) -> Any:
    return m.qkv(x).unflatten(2, (m.heads, -1)).transpose(1, 2).chunk(3, -1)


def _chunked(m: Any, x: Tensor, y: Tensor) -> Any:
    parts = m.qkv(x).chunk(3, -1)
    return tuple(p.unflatten(2, (-1, m.each)).transpose(1, 2) for p in parts)


def _in_one(m: Any, x: Tensor, y: Tensor) -> Any:
    qkv = m.qkv(x).unflatten(2, (-1, m.each)).transpose(1, 2)
    return qkv.split(qkv.shape[1] // 3, 1)


SEPARATE: tuple[Split, ...] = (_separate, _adapting, _within)
PACKED: tuple[Split, ...] = (_kind_first, _head_first, _chunked, _in_one)

Attend = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""q, k, v -> [batch, heads, tokens, each]; ``m.bias`` is added, of heads or of all alike."""


def _fused(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias)


def _by_hand(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * m.each**-0.5) @ k.transpose(-2, -1)
    scores = scores if m.bias is None else scores + m.bias
    return F.dropout(scores.softmax(-1), 0.1, m.training) @ v


def _by_einsum(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k).div(2)
    scores = scores if m.bias is None else m.bias + scores
    return torch.einsum("bhij,bhjd->bhid", F.softmax(scores, dim=3), v)


def _in_batch(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h = q.shape[:2]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    zero = q.new_zeros(1, 1, 1)
    y = torch.baddbmm(zero, q, k.transpose(1, 2), beta=0, alpha=0.6).softmax(-1).bmm(v)
    return y.view(b, h, *y.shape[1:])


def _normed(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = m.norm(q), m.norm(k)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias) * m.gate


ATTEND: tuple[Attend, ...] = (_fused, _by_hand, _by_einsum, _in_batch, _normed)


def _bias(heads: int, rows: int, columns: int, form: int) -> Any:
    """Nothing, a mask for all heads alike, or numbers for each head."""
    forms: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: torch.randn(rows, columns),
        lambda: nn.Parameter(torch.randn(heads, rows, columns)),
        lambda: nn.Parameter(torch.randn(1, heads, 1, 1)),
        lambda: torch.randn(1, 1, rows, columns),
    )
    return pick(forms, form)()


@kind(1.5)
def heads(net: Builder, s: Step) -> None:
    """Of a map's pixels, or across two maps; with or without a norm, before it or behind."""
    i = net.take(s.a)
    i = net.resized(i, (4, 4))
    count, each, packed = (2, 3, 4)[s.c % 3], (2, 3, 5)[s.b % 3], s.b % 2 == 0
    j = i if packed or s.c % 2 else net.resized(net.take(s.c), (2, 4))
    c, other = net.shape(i)[0], net.shape(j)[0]
    split = pick(PACKED if packed else SEPARATE, s.b // 2)
    attend = pick(ATTEND, s.b // 3)
    order = s.b // 5 % 4

    def run(m: Any, x: Tensor, *others: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        given = m.before(tokens) if order == 1 else tokens
        sources = [y.flatten(2).transpose(1, 2) for y in others]
        y = attend(m, *split(m, given, sources[0] if sources else given))
        if split is _within:
            y = y.permute(0, 2, 3, 1).flatten(2)
        else:
            y = y.transpose(1, 2).reshape(*given.shape[:2], -1)
        y = m.proj(y)
        y = tokens + y if order < 3 else y
        y = m.behind(y) if order == 2 else y
        return y.transpose(1, 2).unflatten(2, x.shape[2:])

    inner = count * each
    layers = {"qkv": nn.Linear(c, 3 * inner)} if packed else {
        "q": nn.Linear(c, inner), "k": nn.Linear(other, inner, bias=False),
        "v": nn.Linear(other, inner),
    }  # fmt: skip
    columns = net.shape(j)[1] * net.shape(j)[2]
    bias = _bias(count, 16, columns, s.c // 2)
    part = Part(
        run, heads=count, each=each, norm=nn.LayerNorm(each), before=nn.LayerNorm(c),
        behind=nn.LayerNorm(c), gate=nn.Parameter(torch.rand(count, 1, 1) + 0.5),
        proj=nn.Linear(inner, c), bias=bias, **layers,
    )  # fmt: skip
    net.add(part, *((i,) if j == i else (i, j)))
