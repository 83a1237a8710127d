"""Multiples of channels: which one is taken, and the best rounding of a common ratio."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.allocators.multiples import ENOUGH, budget_for, common_ratio_for, strategies
from amc.allocators.uniform import CLEARLY, uniform
from amc.graph.arrays import FloatArray
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.runtime.errors import InfeasibleBudgetError


@cache
def traced(name: str, width: float = 1.0) -> amc.ChannelGraph:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=3, width=width)
    return amc.trace(model, (torch.randn(1, 3, 32, 32),))


@cache
def chain(*channels: int) -> amc.ChannelGraph:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((3, *channels, 4)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return amc.trace(nn.Sequential(*layers), (torch.randn(1, 3, 8, 8),))


def inside(budget: Budget) -> list[tuple[int, ...]]:
    """Every strategy that meets the budget, by trying all."""
    every = np.array(list(itertools.product(*budget.options)))
    macs = budget.graph.cost.macs_of(every)
    return [tuple(c) for c in every[(budget.floor <= macs) & (macs <= budget.target)].tolist()]


@pytest.mark.parametrize("multiple", [1, 2, 4, 8])
@pytest.mark.parametrize("ratio", [0.3, 0.41, 0.5, 0.77])
@pytest.mark.parametrize("channels", [(16, 24, 12), (8, 5, 4), (32, 10, 16, 24)])
def test_strategies_are_counted(channels: tuple[int, ...], ratio: float, multiple: int) -> None:
    try:
        budget = Budget(chain(*channels), ratio, multiple=multiple)
    except amc.AmcError:
        pytest.skip("the target is out of reach")
    limit = 500
    assert strategies(budget, limit) == min(len(inside(budget)), limit)


@pytest.mark.parametrize(
    ("name", "width", "ratio", "multiple"),
    [
        ("resnet20", 1.0, 0.5, 8),
        ("resnet20", 1.0, 0.3, 8),
        ("resnet20", 1.0, 0.15, 4),  # of 8 there are 859
        ("resnet20", 1.0, 0.1, 4),  # of 8 there are none
        ("resnet56", 1.0, 0.5, 8),
        ("mobilenet_v1", 1.0, 0.5, 8),
        ("mobilenet_v2", 1.0, 0.5, 8),
        pytest.param("mobilenet_v2", 0.25, 0.05, 2, marks=pytest.mark.slow),
        ("vgg16", 0.5, 0.5, 8),
    ],
)
def test_the_largest_multiple_that_leaves_a_choice(
    name: str, width: float, ratio: float, multiple: int
) -> None:
    budget = budget_for(traced(name, width), ratio)
    assert budget.multiple == multiple
    assert strategies(budget, ENOUGH) == ENOUGH
    assert budget.note and ("8" in budget.note) == (multiple < 8)


def test_small_networks_are_cut_by_single_channels() -> None:
    budget = budget_for(chain(6, 5, 4), 0.5)
    assert budget.multiple == 1
    assert budget.note.startswith("of 8 ")
    assert budget_for(chain(6, 5, 4), 0.5, 2).multiple == 2
    assert not budget_for(chain(6, 5, 4), 0.5, 2).note


def test_what_is_out_of_reach_for_all_multiples_is_refused() -> None:
    with pytest.raises(InfeasibleBudgetError, match="nearest feasible value"):
        budget_for(traced("resnet20"), 0.001)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.5, (8, 16, 12)), (0.7, (12, 22, 16)), (0.25, (4, 8, 6)), (1.0, (16, 32, 24))],
)
def test_a_ratio_of_channels_is_rounded_no_further_than_an_eighth(
    ratio: float, expected: tuple[int, ...]
) -> None:
    found = common_ratio_for(chain(16, 32, 24), ratio)
    for count, size in zip(found.values(), (16, 32, 24), strict=True):
        assert abs(count / size - ratio) <= 0.125
    assert common_ratio_for(chain(16, 32, 24), 0.5, 16)["0"] == 16


def drawn(budget: Budget, seed: int) -> dict[str, FloatArray]:
    """Errors that fall with the counts, some groups a hundred times more important."""
    rng = np.random.default_rng(seed)
    return {
        group.name: 10 ** rng.uniform(-1, 1) * (1 - options / group.size) ** rng.uniform(0.5, 2)
        for group, options in zip(budget.graph.decisions, budget.options, strict=True)
    }


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_a_common_ratio_is_rounded_for_the_least_errors(ratio: float) -> None:
    budget = Budget(traced("resnet20"), ratio, multiple=8)
    groups, cost, near = budget.graph.decisions, budget.graph.cost, []
    for group, options in zip(groups, budget.options, strict=True):
        share = budget.exact_ratio * group.size
        below = max(options[options <= share], default=options[0])
        near.append({below, min(options[options >= share])})
    every = np.array(list(itertools.product(*near)))
    macs = cost.macs_of(every)
    every = every[(budget.floor <= macs) & (macs <= budget.target)]
    plain = np.array(list(uniform(budget).values()))
    beyond = []
    for seed in range(12):
        errors = drawn(budget, seed)

        def total(counts: np.ndarray, errors: dict[str, FloatArray] = errors) -> np.ndarray:
            places = [np.searchsorted(o, counts[..., t]) for t, o in enumerate(budget.options)]
            return np.sum([errors[g.name][p] for g, p in zip(groups, places, strict=True)], axis=0)

        found = np.array(list(uniform(budget, errors).values()))
        assert budget.floor <= cost.macs(found) <= budget.target
        assert total(found) <= CLEARLY * total(plain) or (found == plain).all()
        if (best := total(every).min()) <= CLEARLY * total(plain):
            beyond.append(total(found) / best)
    assert len(beyond) > 3
    assert np.mean(beyond) < 1.05  # of the best of all counts next to the shares


def test_single_channels_need_no_errors() -> None:
    budget = Budget(traced("resnet20"), 0.5)
    assert uniform(budget, drawn(budget, 0)) == uniform(budget)
