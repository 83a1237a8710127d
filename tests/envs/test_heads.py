"""A walk over attention heads and channels in one network."""

import numpy as np
import pytest
import torch

import amc
from amc.graph.plan import Strategy
from amc.models.catalog import build
from amc.objectives.budget import Budget
from envs import REWARDS, ChannelPruningEnv, Outcome
from envs.features import NAMES, Features
from small_problems import cheap

STEM, HEADS, MLPS = (8, 16), [2] * 4, [64] * 4  # of a vit of two heads in each of four blocks


@pytest.fixture(scope="module")
def graph() -> amc.ChannelGraph:
    model = build("vit", num_classes=10, in_channels=1, width=0.34).eval()
    found = amc.trace(model, (torch.zeros(1, 1, 16, 16),))
    return amc.restrict(found, model, amc.Restrictions(target="channels,heads"))


def by_hand(kept: dict[str, int]) -> tuple[int, int]:
    """MACs and parameters of that network with these channels and heads."""
    a, b = kept["stem.0.0"], kept["stem.1.0"]
    macs = 9 * (64 * a + 16 * a * b + 16 * b * 32) + 32 * 10
    params = 9 * (a + a * b + b * 32) + 2 * (a + b + 32) + 16 * 32 + 2 * 32 + 32 * 10 + 10
    for block in range(4):
        inner = 16 * kept[f"blocks.{block}.attention.query"]
        mlp = kept[f"blocks.{block}.mlp1"]
        macs += 16 * (4 * 32 * inner + 2 * 32 * mlp) + 2 * 16 * 16 * inner
        params += 3 * (32 * inner + inner) + (inner * 32 + 32) + 4 * 32
        params += 32 * mlp + mlp + mlp * 32 + 32
    return macs, params


def test_heads_and_channels_are_walked_in_the_order_of_the_network(
    graph: amc.ChannelGraph,
) -> None:
    mixed = [unit for _ in range(4) for unit in ("head", "channel")]
    assert [g.unit for g in graph.decisions] == ["channel", "channel", *mixed]
    sizes = [*STEM, *(x for pair in zip(HEADS, MLPS, strict=True) for x in pair)]
    assert list(graph.sizes.values()) == sizes


def test_no_walk_costs_more_than_it_may_and_costs_are_those_by_hand(
    graph: amc.ChannelGraph,
) -> None:
    budget, random = Budget(graph, 0.5), np.random.default_rng(0)
    walks, tried = list[Strategy](), cheap(budget)

    def evaluate(strategy: Strategy) -> Outcome:
        walks.append(strategy)
        return tried(strategy)

    env = ChannelPruningEnv(budget, evaluate, REWARDS["loss"])
    for _ in range(5):
        env.reset(seed=0)
        done = False
        while not done:
            seen, _, done, _, _ = env.step(random.random(1, dtype=np.float32))
            assert env.observation_space.contains(seen)
    assert len(walks) == 5 and len({str(walk) for walk in walks}) > 1
    for strategy in walks:
        counts = graph.counts(strategy)
        kept = dict(zip(graph.sizes, counts.tolist(), strict=True))
        assert (graph.cost.macs(counts), graph.cost.params(counts)) == by_hand(kept)
        assert graph.cost.macs(counts) <= 0.5 * graph.macs()


def test_heads_look_different_from_the_width_of_an_mlp(graph: amc.ChannelGraph) -> None:
    features = Features(Budget(graph, 0.5))
    full = graph.counts({})
    heads, mlp = (features.at(full[:t]) for t in (2, 3))
    inputs = NAMES.index("in_channels")
    assert heads[inputs] < mlp[inputs]  # of the layer that reads them
    assert heads[NAMES.index("macs")] < mlp[NAMES.index("macs")]
