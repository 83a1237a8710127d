"""Which strategies take part in a final, in which order, under which names."""

import pytest

from amc.allocators.family import EXPONENTS, Shape, family, shaped
from amc.allocators.uniform import uniform
from amc.search.finalists import Finalist, finalists, without_search
from six_decisions import budget, errors_of


def named(*counts: int, name: str = "search") -> list[Finalist]:
    return [Finalist(f"{name} {i}", {"a": count}) for i, count in enumerate(counts, 1)]


FAMILY = [Finalist("uniform", {"a": 50}), *named(51, 52, 53, name="whole")]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [50]),
        (2, [50, 1]),
        (3, [50, 1, 51]),
        (4, [50, 1, 2, 51]),
        (5, [50, 1, 2, 51, 52]),
        (6, [50, 1, 2, 3, 51, 52]),
        (8, [50, 1, 2, 3, 4, 51, 52, 53]),
        (10, [50, 1, 2, 3, 4, 5, 6, 51, 52, 53]),
        (40, [50, 1, 2, 3, 4, 5, 6, 7, 8, 9, 51, 52, 53]),
    ],
)
def test_half_of_the_places_or_more_are_for_what_was_found(
    count: int, expected: list[int]
) -> None:
    chosen = finalists(named(*range(1, 10)), FAMILY, count)
    assert [one.strategy["a"] for one in chosen] == expected


def test_what_was_found_and_needs_no_search_has_one_place_and_its_own_name() -> None:
    chosen = finalists(named(50, 51, 1, 1, 2), FAMILY, 6)
    assert [one.strategy["a"] for one in chosen] == [50, 51, 1, 2, 52, 53]
    assert [one.name for one in chosen][:3] == ["uniform", "whole 1", "search 3"]


def test_places_that_the_family_leaves_are_filled() -> None:
    chosen = finalists(named(51, 52, 1, 2, 3), FAMILY[:3], 5)
    assert [one.strategy["a"] for one in chosen] == [50, 51, 52, 1, 2]


def test_the_family_by_name() -> None:
    limit = budget(0.4)
    errors = errors_of(limit)
    found = without_search(limit, errors)
    assert [one.strategy for one in found] == family(limit, errors)
    named = {one.name: one.strategy for one in found}
    assert named.pop("uniform") == uniform(limit, errors)
    for exponent in EXPONENTS:  # a chain has no streams
        strategy = shaped(limit, errors, Shape(exponent))
        assert named.pop(f"sensitivity {exponent:g}", strategy) == strategy
    assert not named
