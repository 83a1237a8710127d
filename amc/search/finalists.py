"""Strategies that are trained before one of them is chosen, with names for people."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amc.allocators.scores import Errors
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.search.problem import starts


@dataclass(frozen=True)
class Finalist:
    """A strategy, and where it comes from."""

    name: str
    strategy: Strategy


def without_search(budget: Budget, errors: Errors) -> list[Finalist]:
    """What needs no search, the uniform strategy first."""
    return [
        Finalist(name, strategy)
        for name, strategy in zip(("uniform", "by density"), starts(budget, errors), strict=False)
    ]


def finalists(
    found: Sequence[Finalist], family: Sequence[Finalist], count: int
) -> list[Finalist]:
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
