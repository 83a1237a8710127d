"""Objectives against networks that are really cut, and numbers counted by hand."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.graph.shrink import shrink
from amc.models.catalog import build
from amc.objectives import sizes
from amc.objectives.activations import activations
from amc.objectives.objective import Objective
from drawn_networks import random_keep

BITS = 32


def bits(graph: amc.ChannelGraph, number: int = BITS) -> np.ndarray:
    return np.full(len(graph.layers), number)


def every(graph: amc.ChannelGraph) -> list[Objective]:
    return [
        sizes.macs(graph), sizes.params(graph), sizes.filters(graph),
        sizes.memory(graph, bits(graph)), sizes.bits(graph, bits(graph), bits(graph)),
        activations(graph),
    ]  # fmt: skip


@cache
def traced(name: str) -> tuple[nn.Module, amc.ChannelGraph]:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=3, width=0.25).eval()
    return model, amc.trace(model, (torch.randn(2, 3, 32, 32),))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vgg16"])
def test_costs_of_counts_are_those_of_the_network_that_is_cut(name: str) -> None:
    model, graph = traced(name)
    plan = random_keep(graph, 3)
    small = shrink(model, plan)
    again = amc.trace(small, (torch.randn(2, 3, 32, 32),))
    counts = graph.counts(plan.strategy)
    for one, other in zip(every(graph), every(again), strict=True):
        if one.name != "filters":  # a channel alone cannot be cut, and is none of these
            assert one(counts) == other(again.counts({})), one.name
    parameters = list(small.parameters())
    assert sizes.params(graph)(counts) == sum(p.numel() for p in parameters)
    assert sizes.memory(graph, bits(graph))(counts) == sum(p.nbytes for p in parameters)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vgg16"])
def test_costs_never_fall_and_forms_say_the_same(name: str) -> None:
    graph, rng = traced(name)[1], np.random.default_rng(0)
    full = graph.counts({})
    large = rng.integers(1, full + 1, size=(200, len(full)))
    small = np.minimum(large, rng.integers(1, full + 1, size=large.shape))
    for one in every(graph):
        assert (one.of(small) <= one.of(large)).all(), one.name
        assert one.of(large)[7] == one(large[7])
        if one.form is not None:
            assert np.array_equal(one.form.of(large), one.of(large)), one.name


@cache
def chain() -> amc.ChannelGraph:
    """Of 6 x 6 pixels: 3 -> 8 (3 x 3) -> 4 (1 x 1) channels, 5 outputs."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(),
        nn.Linear(144, 5),
    )  # fmt: skip
    return amc.trace(model, (torch.randn(2, 3, 6, 6),))


def test_numbers_counted_by_hand() -> None:
    graph, counts = chain(), np.array([6, 3])
    assert list(graph.sizes.values()) == [8, 4]
    layers = [36 * 27 * 6, 36 * 6 * 3, 36 * 3 * 5]
    assert sizes.macs(graph)(counts) == sum(layers)
    assert sizes.filters(graph)(counts) == 9
    weights = [27 * 6, 6 * 3, 108 * 5]
    assert sizes.params(graph)(counts) == sum(weights) + 6 + 3 + 5
    narrow, inputs = np.array([8, 4, 32]), np.array([8, 8, 16])
    assert sizes.memory(graph, narrow)(counts) == (
        (8 * weights[0] + 4 * weights[1] + 32 * weights[2] + 32 * 14) // 8
    )
    expected = sum(m * w * a for m, w, a in zip(layers, narrow, inputs, strict=True))
    assert sizes.bits(graph, narrow, inputs)(counts) == expected
    # convolution and ReLU of 6 channels, 36 pixels, 4 bytes, at the same time
    assert activations(graph)(counts) == 2 * 6 * 36 * 4


def test_bits_of_a_plain_network_are_1024_times_the_macs() -> None:
    graph = chain()
    full = graph.counts({})
    assert sizes.bits(graph, bits(graph), bits(graph))(full) == 1024 * graph.macs()


class Shortcut(nn.Module):
    """A tensor that waits while two convolutions run, and one that is read through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 20, 1)
        self.third, self.last = nn.Conv2d(20, 4, 1), nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = x + self.third(torch.relu_(self.second(x)))
        return self.last(y.flatten(1))


def test_a_tensor_stays_until_its_last_reader_and_writes_in_place_take_nothing() -> None:
    graph = amc.trace(Shortcut(), (torch.randn(1, 3, 4, 4),))
    assert list(graph.sizes) == ["second", "first"] or list(graph.sizes) == ["first", "second"]
    counts = graph.counts({"first": 4, "second": 20})
    assert activations(graph)(counts) == 4 * 16 * (4 + 20 + 4)
    fewer = graph.counts({"first": 4, "second": 2})
    # now the worst is the sum: its operands, and what it makes
    assert activations(graph)(fewer) == 4 * 16 * (4 + 4 + 4)


def test_groups_that_restrictions_make_stay_cost_what_they_did() -> None:
    _, graph = traced("resnet20")
    name = graph.decisions[0].name
    fewer = graph.freeze({name: "excluded"})
    counts = {n: max(1, size // 2) for n, size in graph.sizes.items()} | {name: graph.sizes[name]}
    for one, other in zip(every(graph), every(fewer), strict=True):
        if one.name != "filters":  # of what can be cut
            assert one(graph.counts(counts)) == other(fewer.counts(counts)), one.name
