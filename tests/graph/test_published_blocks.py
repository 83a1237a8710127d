"""Building blocks of published networks, written the way their authors write them."""

import pytest
import torch

import amc
from oracles import counting
from published_blocks import BLOCKS


@pytest.mark.parametrize("name", BLOCKS)
def test_block_can_be_cut_as_far_as_it_allows(name: str) -> None:
    torch.manual_seed(0)
    build, prunable, obstacle = BLOCKS[name]
    model = build().eval()
    x = torch.randn(2, 3, 16, 16)
    graph = amc.trace(model, (x,))
    least = graph.cost.macs(graph.counts({g.name: g.bounds[0] for g in graph.decisions}))
    assert 1 - least / graph.macs() >= prunable
    expected = {"network input", "network output"} | ({obstacle} if obstacle else set())
    assert expected <= set(graph.causes)
    if not obstacle:
        assert set(graph.causes) == expected
    for seed in range(3):
        plan = amc.random_plan(graph, 0.6, seed)
        smaller = amc.shrink(model, plan)
        other = torch.randn(3, 3, 16, 16)
        torch.testing.assert_close(
            smaller(other), amc.mask(model, plan)(other), rtol=1e-4, atol=1e-5
        )
        with counting() as counter, torch.no_grad():
            smaller(x)
        if name != "recurrent":  # the counter does not know what an LSTM costs
            assert counter.get_total_flops() == 2 * 2 * graph.macs(plan)
        smaller.train()(other).sum().backward()
        assert all(p.grad is not None for p in smaller.parameters())
