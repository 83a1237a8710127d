"""Allocators by name, on networks of all kinds: within the budget; what is known is checked."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import amc
import drawn_networks
from agents import AGENTS
from amc.allocators.problem import AllocationProblem
from amc.graph.channel_graph import ChannelGraph
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError, InfeasibleBudgetError
from amc.runtime.names import ALLOCATORS
from amc.search.answer import WITHOUT_AGENT, answer_of, knowledge
from small_problems import budget_of, bundled, chain, graph_of

CASES: dict[str, Callable[[], drawn_networks.Case]] = {
    name: case
    for name, case in vars(drawn_networks).items()
    if callable(case) and getattr(case, "__annotations__", {}).get("return") is drawn_networks.Case
    and case.__code__.co_argcount == 0
}  # fmt: skip


def test_names_are_those_of_the_tables() -> None:
    assert {*AGENTS, *WITHOUT_AGENT, "list"} == set(ALLOCATORS)
    for name in AGENTS:
        assert answer_of(name, AllocationProblem(budget_of())) is None


def assert_all_meet(graph: ChannelGraph, ratio: float, **settings: Any) -> None:
    budget = Budget(graph, ratio, **settings)
    rng = np.random.default_rng(0)
    scores = {group.name: rng.exponential(1, group.size) for group in graph.decisions}
    errors = {
        group.name: (1 - options / group.size) ** 2
        for group, options in zip(graph.decisions, budget.options, strict=True)
    }
    problem = AllocationProblem(budget, errors, lambda: scores, episodes=12)
    for name in WITHOUT_AGENT:
        answer, met = answer_of(name, problem), 0
        found = [answer] if isinstance(answer, Mapping) else []
        if answer is not None and not found:
            assert not isinstance(answer, Mapping)
            strategy = next(answer)
            for _ in range(11):
                found.append(strategy)
                try:
                    strategy = answer.send(float(rng.normal()))
                except StopIteration:
                    break
        for strategy in found:
            counts = graph.counts(strategy)
            assert all(k in o for k, o in zip(counts, budget.options, strict=True)), name
            inside = budget.floor <= budget.cost(counts) <= budget.target
            assert inside or name == "greedy", (name, strategy)
            met += inside
        assert met, name


@pytest.mark.parametrize("case", CASES)
def test_all_meet_the_budgets_of_drawn_networks(case: str) -> None:
    drawn = CASES[case]()
    graph = amc.trace(drawn.model, drawn.inputs)
    if not graph.decisions:
        pytest.skip("nothing can be pruned")
    try:
        assert_all_meet(graph, 0.5)
    except InfeasibleBudgetError:
        assert_all_meet(graph, 0.8)


@pytest.mark.parametrize("settings", [{}, {"multiple": 4}, {"min_ratio": 0.4}])
def test_all_meet_the_budgets_of_small_ones(settings: dict[str, Any]) -> None:
    assert_all_meet(graph_of(chain), 0.5, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "resnet50", "mobilenet_v2", "vgg16"])
def test_all_meet_the_budgets_of_bundled_networks(name: str) -> None:
    assert_all_meet(bundled(name), 0.5, multiple=4)


def test_knowledge_is_of_the_same_kind_network_and_settings(tmp_path: Path) -> None:
    about = {"ranking": {"metric": "l1"}, "score_curves": {}}
    file = tmp_path / "r.json"
    assert knowledge({"ranking": None, "score_curves": None}, about) == {}
    good = {"format": "amc-ranking/1", "about": {"metric": "l1"}, "coefficients": {}}
    for content, said in (
        ([], "is no ranking.json of a run"),
        ({**good, "format": "amc-score_curves/1"}, "is no ranking.json of a run"),
        ({**good, "about": None}, "does not say what it depends on"),
        ({**good, "about": {"metric": "l2"}}, "was made with other metric: 'l2', now 'l1'"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(AmcError) as refused:
            knowledge({"ranking": file}, about)
        assert str(refused.value) == f"--ranking {file}: {said}"
    file.write_text(json.dumps(good))
    assert knowledge({"ranking": file}, about) == {"ranking": {**good, "path": file}}
    with pytest.raises(AmcError):
        knowledge({"ranking": tmp_path / "none.json"}, about)
