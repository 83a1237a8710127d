"""Random plans: by their seed, within the budget."""

import numpy as np
import pytest
import torch

import amc
from amc.models.catalog import build


@pytest.fixture(scope="module")
def resnet() -> amc.ChannelGraph:
    torch.manual_seed(0)
    model = build("resnet20", num_classes=10, in_channels=3)
    return amc.trace(model, (torch.randn(1, 3, 8, 8),))


def test_random_plan_is_determined_by_its_seed(resnet: amc.ChannelGraph) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    plans = [amc.random_plan(resnet, 0.5, seed) for seed in range(5)]
    assert plans == [amc.random_plan(resnet, 0.5, seed) for seed in range(5)]
    assert len({tuple(sorted(p.strategy.items())) for p in plans}) == 5


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_random_plan_is_within_the_budget(resnet: amc.ChannelGraph, ratio: float) -> None:
    for seed in range(10):
        macs = resnet.macs(amc.random_plan(resnet, ratio, seed))
        assert 0.97 * ratio * resnet.macs() <= macs <= ratio * resnet.macs()


def test_random_plan_refuses_what_cannot_be_reached(resnet: amc.ChannelGraph) -> None:
    with pytest.raises(amc.InfeasibleBudgetError):
        amc.random_plan(resnet, 0.001)
    with pytest.raises(amc.AmcError):
        amc.random_plan(resnet, 1.5)
