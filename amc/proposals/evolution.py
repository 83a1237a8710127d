"""Evolution and chance: strategies that are proposed for ever."""

from collections.abc import Mapping

import numpy as np

from amc.allocators.by_density import by_density
from amc.allocators.problem import Proposals
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray
from amc.objectives.budget import Budget
from amc.proposals.variations import Tried, Variations


def random_search(budget: Budget, seed: int) -> Proposals:
    """The uniform strategy, then walks of random actions, each in [0, 1] at every step."""
    rng = np.random.default_rng(seed)
    yield uniform(budget)
    while True:
        yield walked(budget, rng.random(len(budget.options)))


def evolution(
    budget: Budget, seed: int, errors: Mapping[str, FloatArray] | None = None
) -> Proposals:
    """A steady-state evolutionary search: one variation of the best strategies after the other.

    It begins with the uniform strategy and, where errors are known, the greedy one.

    Args:
        budget: what a strategy may cost.
        seed: of everything random.
        errors: of every group, to screen the variations by; see `Variations`.
    """
    vary, rng = Variations(budget, errors), np.random.default_rng(seed)
    known: list[Tried] = []
    starts = [uniform(budget), *([by_density(budget, errors)] if errors else [])]
    while True:
        strategy = starts.pop(0) if starts else vary(known, rng)
        known.append(vary.tried(strategy, (yield strategy)))


def walked(budget: Budget, actions: np.ndarray) -> dict[str, int]:
    """The strategy of these actions, [T] in [0, 1]."""
    decided: list[int] = []
    for action in actions:
        decided.append(budget.execute(decided, float(action))[0])
    return budget.strategy(budget.complete(decided))
