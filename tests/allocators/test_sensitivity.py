"""AMCT's search: loss by what it saves, exact after every removal, floors, blocks of 16."""

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.allocators import AllocationProblem
from amc.allocators.sensitivity import sensitivity
from amc.graph.arrays import FloatArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.restrict import restrict
from amc.graph.restrictions import Restrictions
from amc.objectives.budget import Budget


def chain(*channels: int, size: int = 8) -> ChannelGraph:
    layers = [
        nn.Conv2d(a, b, 3, padding=1) for a, b in zip((3, *channels), (*channels, 4), strict=True)
    ]
    return amc.trace(nn.Sequential(*layers), (torch.zeros(1, 3, size, size),))


def found(budget: Budget, losses: dict[str, FloatArray]) -> dict[str, int]:
    return sensitivity(AllocationProblem(budget, damage=lambda: losses))


def removed_one_by_one(budget: Budget, losses: dict[str, FloatArray]) -> dict[str, int]:
    """The channel of least loss by MACs saved goes, counted on the network anew every time."""
    kept, macs = dict(budget.graph.sizes), budget.graph.cost.macs
    floor = {
        g.name: int(o[0]) for g, o in zip(budget.graph.decisions, budget.options, strict=True)
    }
    while not budget.allows(kept):
        now, best, chosen = macs(budget.graph.counts(kept)), np.inf, ""
        for name, count in kept.items():
            if count > floor[name]:
                loss = np.sort(losses[name])[budget.graph.sizes[name] - count]
                saved = now - macs(budget.graph.counts({**kept, name: count - 1}))
                if loss / saved < best:
                    best, chosen = loss / saved, name
        kept[chosen] -= 1
    return kept


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_density_is_asked_anew_after_every_removal(ratio: float) -> None:
    graph, rng = chain(12, 20, 9), np.random.default_rng(0)
    for _ in range(5):
        losses = {name: rng.exponential(1, size) for name, size in graph.sizes.items()}
        budget = Budget(graph, ratio)
        expected = graph.counts(removed_one_by_one(budget, losses))
        counts = graph.counts(found(budget, losses))
        assert counts.tolist() == budget.complete(expected).tolist()


@pytest.mark.parametrize(("multiple", "kept"), [(1, 15), (16, 16)])
def test_twenty_channels_at_a_quarter(multiple: int, kept: int) -> None:
    """`max_prune_ratio` 0.25 leaves 15 of 20 channels, `ascend_optimized` 16."""
    graph = chain(20)
    least = graph.cost.macs(np.array([kept])) / graph.macs()
    ratio = float(np.ceil(1e4 * least) / 1e4)
    budget = Budget(graph, ratio, multiple=multiple, min_ratio=1 - 0.25)
    assert found(budget, {"0": np.ones(20)}) == {"0": kept}
    assert int(budget.options[0][0]) == kept


def test_what_a_channel_saves_is_its_producer_by_outputs_and_its_reader_by_inputs() -> None:
    """With numerators and denominators swapped the wide group's channels would seem dear."""
    graph = chain(4, 32)  # 108 a + 36 * ... : a channel of 4 saves 2403, one of 32 saves 72 x 64
    budget = Budget(graph, 0.9, tolerance=1.0)
    macs = graph.cost.macs
    saved = [macs(np.array([4, 32])) - macs(np.array(c)) for c in ([3, 32], [4, 31])]
    assert saved[0] > saved[1]
    swapped = [27 * 4 * 64 / 3 + 36 * 32 * 64 / 32, 36 * 32 * 64 / 4 + 32 * 36 * 64 / 4]
    assert swapped[0] < swapped[1]  # producer by inputs, reader by outputs: the other way round
    names = [group.name for group in graph.decisions]
    worth = 0.5 * (saved[0] / saved[1] + 1)  # the first is dearer, yet by what it saves cheaper
    losses = {names[0]: np.full(4, worth), names[1]: np.full(32, 1.0)}
    assert found(budget, losses)[names[0]] == 3


def test_a_block_counts_by_all_that_it_is_worth_for_all_that_it_saves() -> None:
    """A remainder of one channel is no cheaper than a block of eight just like it."""
    graph = chain(17, 16)
    budget = Budget(graph, 0.95, multiple=8, tolerance=1.0)
    names = [group.name for group in graph.decisions]
    cheap = {names[0]: np.full(17, 1.0), names[1]: np.full(16, 0.3)}
    assert found(budget, cheap) == {names[0]: 17, names[1]: 8}


def test_layers_that_are_held_stay_and_the_rest_pays() -> None:
    model = nn.Sequential(
        *[nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 12), (12, 12), (12, 4))]
    )
    graph = amc.trace(model, (torch.zeros(1, 3, 8, 8),))
    held = restrict(graph, model, Restrictions(exclude=("0",)))
    budget = Budget(held, 0.6)
    strategy = found(budget, {name: np.ones(12) for name in held.sizes})
    assert "0" not in strategy and budget.allows(strategy)
