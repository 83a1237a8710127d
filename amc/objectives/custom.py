"""Objectives of the user's own: ``module:function`` of a graph."""

from collections.abc import Callable
from typing import Any

import numpy as np

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.objectives.objective import Objective
from amc.runtime.errors import AmcError
from amc.runtime.user_code import load_function, user_code

TRIED = 64
"""Pairs of strategies, one within the other, that tell whether costs ever fall."""


def users_objective(name: str, graph: ChannelGraph) -> Objective:
    """The objective that the user's function makes of a graph.

    It returns a function of counts [R, T] (strategies, groups in the order of
    `ChannelGraph.decisions`) that returns their costs [R].

    Raises:
        AmcError: there is no such function, or what it returns is no cost.
    """
    made = _called(name, load_function(name), graph)
    if not callable(made):
        raise AmcError(
            f"--objective {name}: must return a function of counts, got {type(made).__name__}"
        )

    def of(counts: IntArray) -> FloatArray:
        found = np.asarray(_called(name, made, counts), dtype=np.float64)
        if found.shape != (len(counts),):
            raise AmcError(
                f"--objective {name}: must return a cost for each of {len(counts)} strategies, "
                f"got shape {found.shape}"
            )
        if not (np.isfinite(found) & (found >= 0)).all():
            raise AmcError(f"--objective {name}: costs must be finite and 0 or more")
        return found

    if graph.decisions:  # else the budget says what is in the way
        _check_rising(name, of, graph)
    return Objective(name, name.rpartition(":")[2], of)


def _called(name: str, function: Callable[..., Any], *given: Any) -> Any:
    with user_code(f"--objective {name}:"):
        return function(*given)


def _check_rising(name: str, of: Callable[[IntArray], FloatArray], graph: ChannelGraph) -> None:
    """Refuses costs that fall when a channel is added: no budget could be promised."""
    full, rng = graph.counts({}), np.random.default_rng(0)
    large = rng.integers(1, full + 1, size=(TRIED, len(full)))
    small = large.copy()
    places = rng.integers(len(full), size=TRIED)
    rows = np.arange(TRIED)
    small[rows, places] = rng.integers(1, small[rows, places] + 1)
    costs, fewer = of(large), of(small)
    if (fewer > costs).any():
        at = int(np.argmax(fewer > costs))
        group = graph.decisions[places[at]].name
        raise AmcError(
            f"--objective {name}: falls from {fewer[at]:.6g} to {costs[at]:.6g} when {group} "
            f"grows from {small[at, places[at]]} to {large[at, places[at]]}; it must not"
        )
    if of(full[None])[0] <= 0:
        raise AmcError(f"--objective {name}: the whole network costs nothing")
