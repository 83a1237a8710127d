"""Bands of strategies around budgets: their ends, and what is drawn between."""

import numpy as np
import pytest
import torch

import amc
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.objectives.objective import together
from amc.objectives.sizes import macs, params
from amc.proposals.band import NARROW, Band, scaled


@pytest.fixture(scope="module")
def graph() -> amc.ChannelGraph:
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5).eval()
    return amc.trace(model, (torch.zeros(2, 1, 16, 16),))


def test_band_reaches_from_a_part_of_the_target_to_a_multiple_of_it(
    graph: amc.ChannelGraph,
) -> None:
    budgets = [Budget(graph, 0.2), Budget(graph, 0.3)]
    band = Band.around(budgets, 2.0)
    wide, narrow = (
        graph.cost.macs(graph.counts(one)) / graph.macs() for one in (band.widest, band.narrowest)
    )
    assert 0.58 < wide <= 0.61 and 0.97 * 0.2 * NARROW < narrow <= 0.2 * NARROW
    rng = np.random.default_rng(0)
    drawn = [one for _ in range(40) for one in band.draw(rng)]
    costs = np.array([graph.cost.macs(graph.counts(one)) / graph.macs() for one in drawn])
    near = [(costs > 0.98 * t) & (costs <= t) for t in (0.2, 0.3)]
    assert (near[0] | near[1]).all() and min(n.sum() for n in near) > 20
    assert all(one[name] <= most for one in drawn for name, most in band.widest.items())
    assert len({tuple(one.values()) for one in drawn}) > 70
    again = np.random.default_rng(0)
    assert [one for _ in range(40) for one in band.draw(again)] == drawn


def test_band_is_never_wider_than_the_network(graph: amc.ChannelGraph) -> None:
    band = Band.around([Budget(graph, 0.7)], 2.0)
    assert band.widest == graph.sizes
    assert [g.bounds for g in band.budgets[0].graph.decisions] == [
        g.bounds for g in graph.decisions
    ]


def test_band_ends_at_the_fewest_channels_where_less_is_out_of_reach(
    graph: amc.ChannelGraph,
) -> None:
    tight = Budget(graph, 0.3, min_ratio=0.42)
    band = Band.around([tight], 1.5)
    assert list(band.narrowest.values()) == [int(o[0]) for o in tight.options]


def test_multiples_stay_multiples_within_the_band(graph: amc.ChannelGraph) -> None:
    band = Band.around([Budget(graph, 0.4, multiple=4)], 1.5)
    for one in band.draw(np.random.default_rng(1)):
        for group in graph.decisions:
            assert one[group.name] % 4 == 0 or one[group.name] == group.size


def test_target_of_any_objective_is_scaled(graph: amc.ChannelGraph) -> None:
    by_params = scaled(Budget(graph, 0.2, objective=params(graph)), 2.0)
    assert by_params.target == int(0.4 * by_params.original)
    full = graph.counts({})
    both = together([(macs(graph), 0.2), (params(graph), 0.6)], full)
    several = scaled(Budget(graph, 1 / float(both(full)), objective=both), 2.0)
    assert [(one.name, part) for one, part in several.limits] == [("macs", 0.4), ("params", 1.0)]
    counts = full // 2
    used = max(
        macs(graph)(counts) / (0.4 * macs(graph)(full)),
        params(graph)(counts) / params(graph)(full),
    )
    assert several.cost(counts) == pytest.approx(used, rel=1e-4)
    assert several.target == 1.0
