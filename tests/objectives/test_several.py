"""Budgets of objectives other than MACs, and of several at once."""

import itertools
import re

import numpy as np
import pytest

from amc import Budget
from amc.allocators import ALLOCATORS, AllocationProblem
from amc.allocators.by_density import by_density
from amc.allocators.multiples import budget_for
from amc.allocators.uniform import uniform
from amc.objectives import sizes
from amc.objectives.activations import activations
from amc.objectives.custom import users_objective
from amc.objectives.objective import Objective, together
from amc.runtime.errors import AmcError, InfeasibleBudgetError
from amc.runtime.user_code import in_memory
from six_decisions import budget as six
from six_decisions import errors_of
from small_problems import bundled

STEPS = 0.125


def stairs(graph: object) -> Objective:
    """Times of a device that computes blocks of eight channels: no quadratic form."""

    def of(counts: np.ndarray) -> np.ndarray:
        blocks = np.ceil(counts * STEPS)
        return 5 + (blocks[:, :-1] * blocks[:, 1:]).sum(axis=1)

    return Objective("stairs", "ms", of)


def limited(kind: str, ratio: float, multiple: int = 1) -> Budget:
    graph = six().graph
    full = graph.counts({})
    one = {
        "params": lambda: sizes.params(graph),
        "filters": lambda: sizes.filters(graph),
        "activations": lambda: activations(graph),
        "stairs": lambda: stairs(graph),
        "several": lambda: together(
            [(sizes.macs(graph), ratio), (sizes.params(graph), 0.9 * ratio), (stairs(graph), 0.7)],
            full,
        ),
    }[kind]()
    return Budget(graph, ratio, 0.02, multiple, objective=one)


KINDS = ("params", "filters", "activations", "stairs", "several")


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_walks_never_exceed_any_limit_and_use_it_up(kind: str, multiple: int) -> None:
    budget, rng = limited(kind, 0.5, multiple), np.random.default_rng(0)
    for _ in range(60):
        decided: list[int] = []
        for action in rng.random(len(budget.options)):
            decided.append(budget.execute(decided, float(action))[0])
        counts = budget.complete(decided)
        for one, ratio in budget.limits:
            assert one(counts) <= ratio * one(budget.graph.counts({})) * (1 + 1e-12)
        wider = [counts + np.eye(6, dtype=int)[t] * multiple for t in range(6)]
        fits = [
            w for w, o in zip(wider, budget.options, strict=True)
            if budget.cost(w) <= budget.target and (w <= budget.graph.counts({})).all()
        ]  # fmt: skip
        # inside of the tolerance, or nothing can be widened
        assert budget.cost(counts) >= 0.98 * budget.target or not fits


@pytest.mark.parametrize("kind", KINDS)
def test_allocators_keep_to_every_objective(kind: str) -> None:
    for ratio, multiple in itertools.product((0.3, 0.6), (1, 8)):
        budget = limited(kind, ratio, multiple)
        errors = errors_of(budget)
        for strategy in (uniform(budget), uniform(budget, errors), by_density(budget, errors)):
            assert budget.allows(strategy)
        for allocator in ALLOCATORS.values():
            answer = allocator(AllocationProblem(budget, errors))
            assert isinstance(answer, dict) and budget.allows(answer)


@pytest.mark.parametrize("kind", ["activations", "stairs", "several"])
def test_channels_that_cost_nothing_are_kept(kind: str) -> None:
    budget = limited(kind, 0.5)
    counts = budget.complete(budget.graph.counts(uniform(budget)).tolist())
    for t, options in enumerate(budget.options):
        for count in options[options > counts[t]]:
            wider = counts.copy()
            wider[t] = count
            # dearer than what was left to be spent on all of them together
            assert budget.cost(wider) > budget.cost(counts) or budget.cost(wider) > budget.target


def test_reachable_counts_of_parameters_are_exact() -> None:
    graph = bundled("plain20", 0.25)
    budget = Budget(graph, 0.4, multiple=2, objective=sizes.params(graph))
    assert budget.floor <= budget.cost(graph.counts(uniform(budget))) <= budget.target


def test_what_is_out_of_reach_is_refused_with_the_nearest_values() -> None:
    graph = six().graph
    parts = [(sizes.macs(graph), 0.5), (sizes.params(graph), 0.001)]
    with pytest.raises(InfeasibleBudgetError, match=r"macs=0\.5,params=0\.001 is below") as error:
        Budget(graph, 0.5, objective=together(parts, graph.counts({})))
    found = re.search(r"values are macs=0\.5,params=([\d.]+) ", str(error.value))
    assert found
    nearest = [(sizes.macs(graph), 0.5), (sizes.params(graph), float(found[1]))]
    assert Budget(graph, 0.5, objective=together(nearest, graph.counts({})))


def test_multiples_are_chosen_for_the_objective() -> None:
    graph = six().graph
    budget = budget_for(graph, 0.5, objective=stairs(graph))
    assert budget.multiple in (1, 2, 4, 8)
    assert budget.allows(uniform(budget))


def test_objectives_of_the_users_own(tmp_path: pytest.TempPathFactory) -> None:
    file = tmp_path / "mine.py"  # type: ignore[operator]
    file.write_text(
        "import numpy as np\n"
        "def widest(graph):\n    return lambda counts: counts.max(axis=1)\n"
        "def falls(graph):\n    return lambda counts: 1e6 - counts.sum(axis=1)\n"
        "def scalar(graph):\n    return lambda counts: 3.0\n"
        "def none(graph):\n    return None\n"
        "def breaks(graph):\n    return lambda counts: 1 / 0\n"
    )
    graph = six().graph
    widest = users_objective(f"{file}:widest", graph)
    budget = Budget(graph, 0.5, objective=widest)
    assert max(uniform(budget).values()) == 20  # of 40
    for name, message in (
        ("falls", "when .* grows from"), ("scalar", "a cost for each of 64"),
        ("none", "must return a function"), ("breaks", "division by zero"),
    ):  # fmt: skip
        with pytest.raises(AmcError, match=message):
            users_objective(f"{file}:{name}", graph)


def test_a_limit_of_less_than_one_whole_unit_is_out_of_reach() -> None:
    graph = six().graph
    parts = [(sizes.macs(graph), 0.5), (sizes.filters(graph), 1e-6)]
    with pytest.raises(InfeasibleBudgetError, match="is below what is reachable"):
        Budget(graph, 0.5, objective=together(parts, graph.counts({})))


def test_networks_of_which_nothing_can_go_say_so_under_objectives_of_ones_own() -> None:
    graph = six().graph.freeze(dict.fromkeys(six().graph.sizes, "mine"))
    with in_memory("mine:widest", lambda graph: lambda counts: counts.max(axis=1)):
        made = users_objective("mine:widest", graph)
    with pytest.raises(InfeasibleBudgetError, match="nothing in this network can be pruned"):
        Budget(graph, 0.5, objective=made)
