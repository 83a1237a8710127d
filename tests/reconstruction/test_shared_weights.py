"""Strategies as slices of one network, against networks that are cut out of it for real."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import Sampling
from amc.graph.shrink import duplicate, tensors
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.catalog import build
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.shared_weights import SharedWeights, nested
from amc.runtime.errors import AmcError
from random_networks import build as random_network
from random_networks import random_spec


def compressor_of(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], metric: str = "random", stats: bool = False
) -> Compressor:
    graph = amc.trace(model.eval(), inputs)
    images = [(inputs[0], torch.zeros(len(inputs[0]), dtype=torch.long))]
    known = calibrate(graph, model, images, Sampling(4)) if stats else {}
    evidence = Evidence(graph, model, known)
    return Compressor(graph, model, known, partial(selection_of, METRICS[metric], evidence))


def trained(network: nn.Module) -> nn.Module:
    """As if: all floating tensors are others."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for held in tensors(network).values():
            if held.is_floating_point():
                held.mul_(1 + 0.2 * torch.rand(held.shape, generator=generator).to(held))
    return network.eval()


def shared_of(compressor: Compressor, seed: int = 0) -> tuple[SharedWeights, dict[str, int]]:
    rng = np.random.default_rng(seed)
    wide = {
        g.name: int(rng.integers(g.bounds[0], g.bounds[1] + 1)) for g in compressor.graph.decisions
    }
    chosen = nested(compressor, compressor.graph, dict.fromkeys(wide, 1))
    plan = chosen.plan(wide)
    return SharedWeights(chosen, trained(amc.shrink(compressor.model, plan)), plan), wide


def check(compressor: Compressor, inputs: tuple[torch.Tensor, ...], seed: int) -> None:
    """What slices hold: the shared tensors at the places of the channels that stay."""
    shared, wide = shared_of(compressor, seed)
    graph, rng = shared.graph, np.random.default_rng(seed + 1)
    bounds = {g.name: g.bounds for g in graph.decisions}
    network, whole = shared._shared, {n: range(k) for n, k in graph.sizes.items()}
    for _ in range(4):
        strategy = {
            n: int(rng.integers(bounds[n][0], most + 1))
            for n, most in wide.items()
            if rng.random() < 0.8
        }
        plan = shared.plan({**wide, **strategy})
        small, worn = shared.sliced(plan), shared.view(strategy)
        shape = amc.shrink(compressor.model, plan)
        assert str(small) == str(shape) == str(worn)
        outer = {(c.tensor, c.dim): c.keep for c in shared.widest.cuts}
        kept = {(c.tensor, c.dim): c.keep for c in plan.cuts}
        for name, held in tensors(small).items():
            expected = network[name]
            for dim in range(held.ndim):
                if (name, dim) in outer:
                    there = outer[name, dim]
                    places = [there.index(one) for one in kept[name, dim]]
                    expected = expected.index_select(dim, torch.tensor(places, dtype=torch.long))
                elif (name, dim) in kept:
                    keep = torch.tensor(kept[name, dim], dtype=torch.long)
                    expected = expected.index_select(dim, keep)
            assert torch.equal(held, expected), name
            assert torch.equal(tensors(worn)[name], expected), name
    assert whole.keys() == wide.keys()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_slices_of_bundled_networks(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, num_classes=5, in_channels=1, width=0.25)
    inputs = (torch.randn(2, 1, 16, 16),)
    check(compressor_of(model, inputs), inputs, 0)


@pytest.mark.parametrize("number", range(6))
def test_slices_of_random_networks(number: int) -> None:
    """Number 3 has a grouped convolution that looks like a depthwise one once it is cut."""
    model, inputs = random_network(random_spec(number))
    check(compressor_of(model, inputs), inputs, number)


@pytest.fixture(scope="module")
def narrow() -> Compressor:
    torch.manual_seed(0)
    model = build("resnet20", num_classes=5, in_channels=1, width=0.5)
    return compressor_of(model, (torch.randn(20, 1, 16, 16),), "lasso", stats=True)


def test_choices_are_nested_in_the_order_in_which_the_metric_lets_go(narrow: Compressor) -> None:
    chosen = nested(narrow, narrow.graph, dict.fromkeys(narrow.graph.sizes, 1))
    alike = []
    for group in narrow.graph.decisions:
        for count in range(1, group.size):
            fewer, more = chosen.keep(group.name, count), chosen.keep(group.name, count + 1)
            assert len(fewer) == count and (np.diff(fewer) > 0).all()
            assert set(fewer) < set(more)
            alike.append(len(set(fewer) & set(narrow.keep(group.name, count))) / count)
    assert np.mean(alike) > 0.9
    ranked = compressor_of(narrow.model, (torch.randn(2, 1, 16, 16),), "l1")
    same = nested(ranked, ranked.graph, dict.fromkeys(ranked.graph.sizes, 1))
    for group in ranked.graph.decisions:
        for count in (1, group.size // 2, group.size):
            kept = ranked.keep(group.name, count)
            np.testing.assert_array_equal(same.keep(group.name, count), kept)


def test_of_what_is_not_there_a_view_has_all_that_is(narrow: Compressor) -> None:
    shared, wide = shared_of(narrow)
    name = next(n for n, k in wide.items() if k < narrow.graph.sizes[n])
    x = torch.randn(3, 1, 16, 16)
    with torch.inference_mode():
        widest = shared.view(wide)(x)
        assert torch.equal(shared.view({})(x), widest)
        assert torch.equal(shared.view({name: narrow.graph.sizes[name]})(x), widest)
        assert torch.equal(shared.sliced(shared.widest)(x), widest)
    with pytest.raises(AmcError, match="'nothing' cannot be pruned"):
        shared.view({"nothing": 3})
    with pytest.raises(AmcError, match="keeps channels that the network"):
        shared.sliced(shared.graph.plan({}))
    with pytest.raises(AmcError, match="keeps channels that the network"):
        shared.sliced(shared.plan({**wide, name: wide[name] + 1}))


def test_the_original_stays_and_copies_are_independent(narrow: Compressor) -> None:
    before = {n: t.detach().clone() for n, t in tensors(narrow.model).items()}
    shared, wide = shared_of(narrow)
    small = shared.sliced(shared.plan(wide))
    expected = {n: t.detach().clone() for n, t in tensors(small).items()}
    other = duplicate(shared.view(wide))
    with torch.no_grad():
        for held in (*small.parameters(), *other.parameters()):
            held.zero_()
    again = tensors(shared.sliced(shared.plan(wide)))
    assert all(torch.equal(again[n], t) for n, t in expected.items())
    assert all(torch.equal(tensors(narrow.model)[n], t) for n, t in before.items())
