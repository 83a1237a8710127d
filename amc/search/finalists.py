"""Strategies that are trained before one of them is chosen, with names for people."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amc.allocators.family import (
    EXPONENTS,
    Shape,
    family,
    inside_only,
    shaped,
    streams_whole,
)
from amc.allocators.scores import Errors
from amc.allocators.uniform import uniform
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget


@dataclass(frozen=True)
class Finalist:
    """A strategy, and where it comes from."""

    name: str
    strategy: Strategy


def without_search(budget: Budget, errors: Errors) -> list[Finalist]:
    """The strategies of `family`, which always take part, by name; the uniform one first."""
    parts = {
        "uniform": uniform(budget, errors or None),
        "streams whole": streams_whole(budget, errors),
        "inside only": inside_only(budget, errors),
    }
    parts |= {f"sensitivity {e:g}": shaped(budget, errors, Shape(e)) for e in EXPONENTS}
    return [
        Finalist(next(name for name, part in parts.items() if part == one), one)
        for one in family(budget, errors)
    ]


def finalists(found: Sequence[Finalist], family: Sequence[Finalist], count: int) -> list[Finalist]:
    """Different strategies, the first of the family first.

    The family takes part as a whole where that leaves half of the places to what was found.

    Args:
        found: by a search, the best first.
        family: what needs no search; all others are compared with its first one.
        count: how many at most, 1 or more.
    """
    room = max(count - len(family), count // 2)
    names = {_key(one): one.name for one in reversed(family)}
    chosen: dict[tuple[tuple[str, int], ...], Finalist] = {}

    def add(some: Sequence[Finalist], most: int) -> None:
        for one in some:
            if len(chosen) < most:
                chosen.setdefault(_key(one), replace(one, name=names.get(_key(one), one.name)))

    add(family, 1)
    add(found, min(count, 1 + room))
    add(family, count)
    add(found, count)
    return list(chosen.values())


def _key(one: Finalist) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(one.strategy.items()))
