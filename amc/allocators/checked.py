"""What an allocator of the user's own answers, checked before anything is done with it."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from amc.allocators.problem import AllocationProblem, Proposals
from amc.graph.arrays import IntArray
from amc.graph.groups import ChannelGroup
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError
from amc.runtime.user_code import user_code
from amc.runtime.wording import suggestion

END: Any = object()
"""What comes after the last proposal."""


def answer(
    allocator: Callable[[AllocationProblem], Any], problem: AllocationProblem, source: str
) -> dict[str, int] | Proposals:
    """What a function of the user's own makes of a problem.

    Args:
        allocator: the function.
        problem: what it is asked.
        source: its name, for messages.

    Raises:
        AmcError: it fails, or its answer is no strategy within the budget; what would do.
    """
    said = f"--allocator {source}:"
    with user_code(said):
        found = allocator(problem)
    if isinstance(found, Iterator):
        return _proposals(found, problem.budget, said)
    return checked(found, problem.budget, said)


def _proposals(given: Iterator[Any], budget: Budget, said: str) -> Proposals:
    """The proposals of the user's, each checked; an iterator is told nothing."""
    tell: Callable[[float], Any] = getattr(given, "send", lambda reward: next(given))
    strategy = _step(lambda: next(given), said)
    if strategy is END:
        raise AmcError(f"{said} proposes no strategy, one or more are needed")
    while strategy is not END:
        reward = yield checked(strategy, budget, said)
        strategy = _step(partial(tell, reward), said)


def _step(step: Callable[[], Any], said: str) -> Any:
    """What comes next, or `END`."""
    with user_code(said):
        try:
            return step()
        except StopIteration:
            return END


def checked(found: Any, budget: Budget, said: str) -> dict[str, int]:
    """The strategy, every group named.

    Raises:
        AmcError: it is no mapping, names what is no group, keeps a count that the group may not,
            or costs too much; the message says what would do.
    """
    if not isinstance(found, Mapping):
        raise AmcError(
            f"{said} expected a strategy, {{group: kept channels}}, or a generator of strategies, "
            f"got {type(found).__name__}"
        )
    names = [group.name for group in budget.graph.decisions]
    for name in found:
        if name not in names:
            near = suggestion(str(name), names)
            hint = near or f"; groups are {', '.join(names)}"
            raise AmcError(f"{said} unknown group {name!r}{hint}")
    pairs = zip(budget.graph.decisions, budget.options, strict=True)
    strategy = {g.name: _count(g, o, found.get(g.name, int(o[-1])), said) for g, o in pairs}
    if not budget.allows(strategy):
        raise AmcError(_too_much(budget, strategy, said))
    return strategy


def _count(group: ChannelGroup, options: IntArray, value: Any, said: str) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise AmcError(f"{said} {group.name}: expected a number of channels, got {value!r:.40}")
    nearest = int(options[np.abs(options - int(value)).argmin()])
    if nearest != value:
        steps = "" if len(options) == options[-1] - options[0] + 1 else " in the allowed steps"
        raise AmcError(
            f"{said} {group.name} may keep {options[0]} to {options[-1]} channels{steps}, got "
            f"{value}; the nearest is {nearest}"
        )
    return int(value)


def _too_much(budget: Budget, strategy: Strategy, said: str) -> str:
    """By how much a strategy costs too much, and what of its proportions would fit."""
    counts = budget.graph.counts(strategy)
    sizes = np.array([group.size for group in budget.graph.decisions])
    fitting = budget.fitted((counts / sizes)[None])[0]
    changed = {
        group.name: int(fits)
        for group, fits, count in zip(budget.graph.decisions, fitting, counts, strict=True)
        if fits != count
    }
    few = ", ".join(f"{name}: {count}" for name, count in list(changed.items())[:8])
    more = f" and {len(changed) - 8} more" if len(changed) > 8 else ""
    over = budget.cost(counts) / budget.target
    return (
        f"{said} the strategy costs {over:.4g} times what may be spent; the nearest of its "
        f"proportions that fits has {few}{more}"
    )
