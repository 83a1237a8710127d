"""Files of every version that was ever written keep their meaning."""

from pathlib import Path

import pytest

import amc
from amc.allocators.strategy_file import read_strategy
from amc.graph.plan_files import load_fitting
from amc.runtime.files import read_json
from amc.search.policies import known_strategies, load_learned
from amc.search.problem import proposed
from small_problems import budget_of, bundled, chain, errors_of

OLD = Path(__file__).parents[1] / "old"


@pytest.mark.parametrize("version", [1, 2])
def test_policies_still_walk(version: int) -> None:
    policy, budget = load_learned(OLD / f"policy-{version}"), budget_of(0.5, chain)
    strategy = proposed(policy, budget, errors_of(budget))
    # what they walked to when they were written
    expected = {1: {"0": 8, "2": 19, "4": 27, "7": 19}, 2: {"0": 9, "2": 17, "4": 27, "7": 18}}
    assert strategy == expected[version]
    assert bool(known_strategies(policy, budget)) == (version > 1)


@pytest.mark.parametrize("version", [1, 2])
def test_plans_and_strategies_still_cut(version: int) -> None:
    graph = bundled("resnet20", 0.25)
    plan = load_fitting(OLD / f"plan-{version}.json", graph)
    assert plan == amc.random_plan(graph, 0.5, seed=0)
    assert read_strategy(graph, OLD / f"strategy-{version}.json") == {
        name: plan.strategy.get(name, size) for name, size in graph.sizes.items()
    }
    formats = [
        read_json(OLD / f"{kind}-{version}.json")["format"] for kind in ("plan", "strategy")
    ]
    assert formats == [f"amc-plan/{version}", "amc-strategy/1"]
