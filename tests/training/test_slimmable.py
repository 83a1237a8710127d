"""Slices of a network in training: what they compute, and where their gradients go."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import amc
from amc.graph.plan import Plan, cuts_seen_from
from amc.models.catalog import build
from amc.training.distillation import Distillation, cross_entropy
from amc.training.recipe import Recipe
from amc.training.slimmable import Slices, Slimmable
from amc.training.trainer import train
from published_blocks import BLOCKS
from random_networks import build as random_network
from random_networks import random_spec
from small_trainings import Batches, random, small, state, stream

Inputs = tuple[Tensor, ...]


@pytest.fixture(scope="module", autouse=True)
def native_convolutions() -> Iterator[None]:
    """Without oneDNN, see tests/graph/test_random_networks.py."""
    before = torch.backends.mkldnn.set_flags(False)
    yield
    torch.backends.mkldnn.set_flags(before[0])


def nested_plans(graph: amc.ChannelGraph, seed: int) -> tuple[Plan, Plan]:
    """Random channels, and some of them."""
    rng, wide, narrow = np.random.default_rng(seed), {}, {}
    for group in graph.decisions:
        least, most = group.bounds
        order = rng.permutation(group.size)
        count = int(rng.integers(least, most + 1))
        wide[group.name], narrow[group.name] = (
            order[:count],
            order[: rng.integers(least, count + 1)],
        )
    return graph.plan(wide), graph.plan(narrow)


def scattered(plan: Plan, name: str, whole: Tensor, part: Tensor | None) -> Tensor | None:
    """The gradient of a part as one of the whole: zero where nothing of it is."""
    if part is None:
        return None
    keep = {one.dim: one.keep for one in plan.cuts if one.tensor == name}
    places = [np.array(keep.get(d, range(n))) for d, n in enumerate(whole.shape)]
    found = torch.zeros_like(whole)
    if not whole.ndim:
        return part.clone()
    found[np.ix_(*places)] = part
    return found


def backward(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    torch.manual_seed(0)  # dropout
    outputs = [y for y in tree_leaves(model(*inputs)) if isinstance(y, Tensor)]
    rising = [
        (y * torch.linspace(0.5, 1, y.numel()).view_as(y)).sum() for y in outputs if y.grad_fn
    ]
    if rising:
        torch.stack(rising).sum().backward()
    return [y.detach() for y in outputs]


def check(model: nn.Module, inputs: Inputs, seed: int) -> int:
    """Slices of what a plan has left, against a network that is cut out of it for real."""
    graph = amc.trace(model, inputs)
    wide, narrow = nested_plans(graph, seed)
    shared, alone = amc.shrink(model, wide), amc.shrink(model, narrow)
    inner = Plan({}, cuts_seen_from(wide.cuts, narrow.cuts))
    slices = Slices(model, wide)
    for training in (False, True):
        for network in (shared, alone):
            network.train(training)
            network.zero_grad(set_to_none=True)
        before = {name: held.detach().clone() for name, held in shared.named_buffers()}
        worn = slices(shared, narrow)
        assert str(worn) == str(alone)
        assert [m.training for m in worn.modules()] == [m.training for m in alone.modules()]
        found, expected = backward(worn, inputs), backward(alone, inputs)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
        for name, held in shared.named_buffers():
            assert torch.equal(held, before[name]), name
        grads = {name: p.grad for name, p in alone.named_parameters()}
        for name, parameter in shared.named_parameters():
            wanted = scattered(inner, name, parameter, grads[name])
            got = parameter.grad
            assert (got is None) == (wanted is None), name
            assert wanted is None or got is None or torch.equal(got, wanted), name
    return len(inner.cuts)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_slices_of_bundled_networks(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, num_classes=5, in_channels=1, width=0.25)
    assert check(model.eval(), (torch.randn(3, 1, 16, 16),), 0) > 50


@pytest.mark.parametrize("name", BLOCKS)
def test_slices_of_published_blocks(name: str) -> None:
    """Splits, shuffles, concatenations, products: attributes follow too."""
    torch.manual_seed(0)
    model = BLOCKS[name][0]().eval()
    assert check(model, (torch.randn(2, 3, 16, 16),), 0)


@pytest.mark.parametrize("first", [0, 5])
def test_slices_of_random_networks(first: int) -> None:
    """Tied and bare parameters, grouped convolutions, recurrent layers, hooks."""
    cuts = [check(*random_network(random_spec(first + i)), seed=i) for i in range(5)]
    assert sum(map(bool, cuts)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("first", range(2000, 2200, 50))
def test_slices_of_further_random_networks(first: int) -> None:
    for i in range(50):
        check(*random_network(random_spec(first + i)), seed=i)


def test_plans_that_keep_more_than_there_is_are_refused() -> None:
    graph = amc.trace(nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)), (torch.zeros(1, 3),))
    outer = graph.plan({"0": [0, 2, 3, 5]})
    assert cuts_seen_from(outer.cuts, outer.cuts) == ()
    inner = cuts_seen_from(outer.cuts, graph.plan({"0": [2, 5]}).cuts)
    assert {one.keep for one in inner} == {(1, 3)} and {one.size for one in inner} == {4}
    for more in (graph.plan({"0": [1, 2]}), graph.plan({})):
        with pytest.raises(amc.AmcError, match="keeps channels that the network"):
            cuts_seen_from(outer.cuts, more.cuts)


# The loss


def slimmable(model: nn.Module, seed: int = 0) -> tuple[Slimmable, list[int]]:
    """Over prefixes of the hidden units of a small network of 8; and the counts that are drawn."""
    graph, drawn = amc.trace(model.eval(), (torch.zeros(2, 3),)), list[int]()

    def prefix(count: int) -> Plan:
        return graph.plan({"0": range(count)})

    def draw(rng: np.random.Generator) -> list[Plan]:
        counts = rng.integers(2, 8, size=2).tolist()
        drawn.extend(counts)
        return [prefix(count) for count in counts]

    slices = Slices(model, prefix(8))
    return Slimmable(lambda plan: cross_entropy, prefix(8), prefix(1), draw, slices, seed), drawn


def test_loss_is_the_sum_over_the_widest_the_narrowest_and_two_between() -> None:
    model = small()
    loss, drawn = slimmable(model)
    x, y = random(20, 3, seed=1), torch.arange(20) % 2
    model.train()
    found = loss.at(0.25)(model, x, y)
    graph = amc.trace(model.eval(), (x[:2],))
    model.train()
    alone = [amc.shrink(model, graph.plan({"0": range(k)})) for k in (8, 1, *drawn)]
    expected = sum(cross_entropy(net, x, y) for net in alone)
    torch.testing.assert_close(found, expected)


def test_slices_are_a_function_of_seed_and_progress() -> None:
    model, (x, y) = small(), next(iter(stream()))
    counts = []
    for seed, progress in ((0, 0.0), (0, 0.5), (0, 0.5), (1, 0.5)):
        loss, drawn = slimmable(model, seed)
        loss.at(progress)(model, x, y)
        counts.append(tuple(drawn))
    assert counts[1] == counts[2] and len(set(counts)) == 3


def test_training_makes_every_prefix_work_and_repeats_bit_for_bit() -> None:
    networks = []
    for _ in range(2):
        model = small()
        loss, _ = slimmable(model)
        networks.append(train(model, stream(), Recipe(20, 0.1), loss))
    first, second = networks
    assert all(torch.equal(held, second.state_dict()[n]) for n, held in state(first).items())
    graph = amc.trace(first, (torch.zeros(2, 3),))
    x, y = next(iter(stream(60)))
    for count in range(1, 9):
        cut = amc.shrink(first, graph.plan({"0": range(count)})).train()  # norms by the batch
        right = (cut(x).argmax(1) == y).float().mean()
        assert right > 0.95, count


def test_losses_of_slices_change_with_progress_too() -> None:
    model, (x, y) = small(), next(iter(stream()))
    loss, _ = slimmable(model)
    fading = Distillation(small(1), weight=5.0, schedule="linear")
    plain = loss.at(1.0)(model.eval(), x, y)
    late = Slimmable(lambda plan: fading, loss.widest, loss.narrowest, loss.draw, loss.slices)
    torch.testing.assert_close(late.at(1.0)(model, x, y), plain)
    assert late.at(0.0)(model, x, y) > loss.at(0.0)(model, x, y)


def test_batches_may_be_given_again() -> None:
    """A fixed stream, an epoch of one step."""
    model = small()
    loss, drawn = slimmable(model)
    train(model, Batches(next(iter(stream()))), Recipe(3, 0.1), loss)
    assert len(drawn) == 6 and len(set(drawn)) > 1
