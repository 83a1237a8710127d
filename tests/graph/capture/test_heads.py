"""Where the heads of attention lie, in exported programs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.graph.capture.export import Inputs, export
from amc.graph.capture.heads import Heads, find_heads
from amc.graph.capture.moves import name_of

B, N, HEADS, EACH = 2, 5, 3, 4


class Attention(nn.Module):
    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.qkv, self.run = nn.Linear(8, 3 * HEADS * EACH), run
        self.other = nn.Linear(8, HEADS * EACH)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def found(run: Callable[..., Tensor], without: Any = ()) -> tuple[Heads, list[Any]]:
    program = export(Attention(run).eval(), Inputs((torch.randn(B, N, 8),)))
    signature = program.graph_signature
    given = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return find_heads(program.graph, given, without), list(program.graph.nodes)


def packed(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(B, N, 3, HEADS, EACH).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v)


def by_hand(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(B, N, HEADS, 3, EACH).permute(3, 0, 2, 1, 4).unbind()
    return F.dropout(((q * 0.5) @ k.mT + 1).softmax(-1), 0.1, False) @ v


@pytest.mark.parametrize(("run", "axes"), [(packed, (0, 3)), (by_hand, (0, 2))])
def test_marks_reach_the_view_that_splits_channels(
    run: Callable[..., Tensor], axes: tuple[int, ...]
) -> None:
    """Samples differ as heads do; labels do not vary along them."""
    heads, nodes = found(run)
    views = [n for n in nodes if name_of(n) in ("view", "reshape")]
    assert [heads.axes[v] for v in views] == [axes]
    assert len(set(heads.owners.values())) == 1


def test_both_products_of_a_softmax_are_attention() -> None:
    heads, nodes = found(by_hand)
    products = [n for n in nodes if name_of(n) == "matmul"]
    assert len(products) == 2 and set(heads.owners) == set(products)
    (name,) = set(heads.owners.values())
    for without in ([name], None):
        other = found(by_hand, without)[0]
        assert not other.axes and set(other.owners.values()) == {name}


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.other(x).view(B, N, HEADS, EACH).transpose(1, 2).softmax(-1),
        lambda m, x: (m.other(x) @ m.other.weight).softmax(-1) @ m.other.weight.mT,
        lambda m, x: m.other(x) @ m.other(x).mT,
        lambda m, x: (m.other(x) @ m.other(x).mT).softmax(-1),
    ],
)
def test_other_products_and_softmaxes_are_no_attention(run: Callable[..., Tensor]) -> None:
    assert found(run)[0] == Heads()
