"""Products of attention."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from one_operator import check_cuts, images, inner


def by_hand(m: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (m.q, m.k, m.v))
    weights = (0.3 * q.mT @ k).softmax(-1)
    return x + (v @ weights.mT).unflatten(2, x.shape[2:])


def by_einsum(m: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (m.q, m.k, m.v))
    weights = torch.einsum("bcn,bcm->bnm", q, k).mul(0.3).softmax(-1)
    return x + torch.einsum("bnm,bcm->bcn", weights, v).unflatten(2, x.shape[2:])


def fused(m: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2).mT.unflatten(2, (2, -1)) for layer in (m.q, m.k, m.v))
    y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    return y.transpose(1, 2).flatten(2).mT.unflatten(2, x.shape[2:])


@pytest.mark.parametrize("run", [by_hand, by_einsum, fused])
def test_products_of_attention_cost_what_pytorch_counts(run: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    width = 8 if run is fused else 4
    model = inner(
        run, q=nn.Conv2d(8, width, 1), k=nn.Conv2d(8, width, 1), v=nn.Conv2d(8, 8, 1)
    ).eval()
    graph = amc.trace(model, (x := images(),))
    if run is not fused:
        assert graph.sizes == {"stem.0": 8, "q": 4}
        assert graph.macs() - graph.macs(graph.plan({"q": [2]})) == 3 * (2 * 8 * 64 + 64 * 64)
        found = amc.random_plan(graph, 0.5)
        assert 0.3 * graph.macs() < graph.macs(found) <= 0.5 * graph.macs()
    check_cuts(model, graph, x, fewest=2 if run is by_einsum else 0)
