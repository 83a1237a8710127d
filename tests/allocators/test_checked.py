"""What a user's own allocator answers: taken, or refused in one line that says what would do."""

from collections.abc import Iterator
from typing import Any

import pytest

from amc.allocators.checked import answer
from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.uniform import uniform
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError
from small_problems import Small, budget_of, graph_of, macs


def asked(budget: Budget | None = None) -> AllocationProblem:
    return AllocationProblem(budget or budget_of(0.5))


def refused(found: Any, budget: Budget | None = None) -> str:
    with pytest.raises(AmcError) as caught:
        answer(lambda problem: found, asked(budget), "mine.py:f")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("--allocator mine.py:f")
    return str(caught.value)


def test_a_strategy_at_once_groups_that_are_not_named_keep_all() -> None:
    found = answer(lambda problem: {"a": 3}, asked(), "mine.py:f")
    assert found == {"a": 3, "b": 6, "f": 10}
    assert macs(3) <= budget_of(0.5).target


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"q": 1}, "unknown group 'q'; groups are a, b, f"),
        ({"aa": 1}, "unknown group 'aa'; did you mean a?"),
        ({"a": 0}, "a may keep 1 to 8 channels, got 0; the nearest is 1"),
        ({"a": 9}, "a may keep 1 to 8 channels, got 9; the nearest is 8"),
        ({"a": 0.5}, "a: expected a number of channels, got 0.5"),
        ({"a": True}, "a: expected a number of channels, got True"),
        (None, "expected a strategy, {group: kept channels}, or a generator"),
        ([3, 6, 10], "or a generator of strategies, got list"),
    ],
)
def test_what_is_no_strategy_is_refused(found: Any, said: str) -> None:
    assert said in refused(found)


def test_steps_of_multiples_are_kept_to() -> None:
    budget = Budget(graph_of(Small), 0.6, multiple=4, tolerance=1.0)
    said = refused({"a": 5}, budget)
    assert "a may keep 4 to 8 channels in the allowed steps, got 5; the nearest is 4" in said


def test_what_costs_too_much_is_told_what_fits() -> None:
    budget = budget_of(0.5)
    said = refused({}, budget)
    assert f"costs {macs() / budget.target:.4g} times what may be spent" in said
    fitting = {k: int(v) for k, v in (w.split(": ") for w in said.split(" has ")[1].split(", "))}
    assert budget.allows({**budget.graph.sizes, **fitting})


def test_proposals_are_sent_rewards_and_checked_one_by_one() -> None:
    told = list[float]()

    def mine(problem: AllocationProblem) -> Proposals:
        told.append((yield uniform(problem.budget)))
        told.append((yield {"a": 3}))
        yield {"a": 8}

    proposals = answer(mine, asked(), "mine.py:f")
    assert isinstance(proposals, Iterator)
    assert next(proposals) == uniform(budget_of(0.5))
    assert proposals.send(0.25) == {"a": 3, "b": 6, "f": 10}
    with pytest.raises(AmcError, match="times what may be spent"):
        proposals.send(0.5)
    assert told == [0.25, 0.5]
    nothing = answer(lambda problem: iter(()), asked(), "mine.py:f")
    with pytest.raises(AmcError, match="proposes no strategy, one or more are needed"):
        list(nothing)
    with pytest.raises(AmcError, match="got NoneType"):
        list(answer(lambda problem: iter([None]), asked(), "mine.py:f"))


def test_proposals_may_end_and_plain_iterators_will_do() -> None:
    for given in ([{"a": 3}, {"a": 2}].__iter__(), (s for s in ({"a": 3}, {"a": 2}))):
        proposals = answer(lambda problem, found=given: found, asked(), "mine.py:f")
        assert [s["a"] for s in proposals] == [3, 2]


def test_mistakes_in_it_are_one_line() -> None:
    def mine(problem: AllocationProblem) -> Proposals:
        yield {"a": 3}
        raise ValueError("oh\nno")

    proposals = answer(mine, asked(), "mine.py:f")
    assert not isinstance(proposals, dict)
    next(proposals)
    with pytest.raises(AmcError, match=r"--allocator mine.py:f: ValueError: oh no"):
        proposals.send(0.0)
    with pytest.raises(AmcError, match=r"--allocator mine.py:f: ZeroDivisionError"):
        answer(lambda problem: 1 // 0, asked(), "mine.py:f")
