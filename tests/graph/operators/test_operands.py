"""Numbers of all channels that forward divides, and reasons that are the reason."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import amc


class Halved(nn.Module):
    """An attribute holds all channels, of which forward takes parts."""

    def __init__(self, parts: int, paths: int, take: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.channels, self.paths, self.take = 12, paths, take
        self.before = nn.Conv2d(3, 12, 3)
        self.each = nn.ModuleList(nn.Conv2d(12 // paths, 8, 3) for _ in range(parts))
        self.after = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.take(self, self.before(x))
        seen = (torch.relu(layer(part)) for layer, part in zip(self.each, parts, strict=True))
        return self.after(sum(seen, torch.zeros(())))


TAKES: dict[str, tuple[int, int, Callable[[Any, Tensor], Any]]] = {
    "split": (2, 2, lambda s, x: torch.split(x, s.channels // s.paths, 1)),
    "thirds": (3, 3, lambda s, x: x.split(s.channels // s.paths, 1)),
    "slices": (2, 2, lambda s, x: (x[:, : s.channels // 2], x[:, s.channels // 2 :])),
    "middle": (1, 3, lambda s, x: [x[:, s.channels // 3 : 2 * (s.channels // 3)]]),
    "unequal": (
        2, 3,
        lambda s, x: [y.narrow(1, 0, s.channels // 3) for y in x.split(
            [s.channels // 3, s.channels - s.channels // 3], 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKES)
def test_a_number_that_forward_divides_follows_the_cut(name: str) -> None:
    model, x = Halved(*TAKES[name]).eval(), torch.randn(2, 3, 8, 8)
    graph = amc.trace(model, (x,))
    assert {"before", "each.0"} <= set(graph.sizes), str(graph)
    rng = np.random.default_rng(0)
    for _ in range(3):
        counts = {g.name: int(rng.integers(g.bounds[0], g.size)) for g in graph.decisions}
        plan = graph.plan({n: rng.permutation(graph.sizes[n])[:k] for n, k in counts.items()})
        smaller = amc.shrink(model, plan)
        torch.testing.assert_close(smaller(x), amc.mask(model, plan)(x), rtol=1e-4, atol=1e-5)
        assert smaller.channels == smaller.before.out_channels < 12
    assert model.channels == 12


class Normed(nn.Module):
    """Channels that a layer norm keeps whole, and what is done to them afterwards."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.then = then
        self.a, self.norm, self.head = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.then(self.norm(self.a(x))))


@pytest.mark.parametrize(
    "then",
    [
        lambda x: x[:, 0],
        lambda x: x.mean(1),
        lambda x: torch.roll(x, 1, 1),
        lambda x: x.cumsum(1),
        lambda x: torch.nn.functional.avg_pool1d(x.mT, 2).mT,
    ],
    ids=["select", "mean", "roll", "cumsum", "pool"],
)
def test_what_stays_already_needs_no_further_reason(then: Callable[[Tensor], Tensor]) -> None:
    graph = amc.trace(Normed(then).eval(), (torch.randn(2, 6, 8),))
    reasons = {g.name: g.reason for g in graph.groups if not g.prunable}
    assert reasons["head:input"].startswith("layer_norm normalises over the channels (in norm")
    assert set(graph.causes) == {
        "network input", "network output", "layer_norm normalises over the channels"
    }  # fmt: skip


class Separable(nn.Module):
    """One channel for the weights of all positions, the rest for keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.before, self.three = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 25, 1)
        self.after, self.last = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        query, key, value = self.three(x).split([1, self.width, self.width], 1)
        weights = query.flatten(2).softmax(-1).view_as(query)
        context = (key * weights).sum((2, 3), keepdim=True)
        return self.last(x + self.after(torch.relu(value) * context))


def test_a_single_channel_beside_others_stays_alone() -> None:
    model, x = Separable().eval(), torch.randn(2, 3, 8, 8)
    graph = amc.trace(model, (x,))
    assert graph.sizes == {"before": 8, "three": 12}
    assert {g.size for g in graph.groups if "a single channel" in g.reason} == {1}
    plan = graph.plan({"three": [0, 3, 4, 7, 11]})
    smaller = amc.shrink(model, plan)
    torch.testing.assert_close(smaller(x), amc.mask(model, plan)(x), rtol=1e-4, atol=1e-5)
    assert smaller.three.out_channels == 11
