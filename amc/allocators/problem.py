"""What an allocator is: it says how much every group keeps, at once or by trying strategies."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from amc.allocators.scores import Errors, Scores, scores_from_errors
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget

Proposals: TypeAlias = Generator[Strategy, float, None]
"""Yields strategies and is sent the reward of each; higher is better."""

Solver: TypeAlias = Callable[[Budget, Errors], Strategy]
"""Which counts within a budget have a small sum of errors."""


def forget(name: str, content: Mapping[str, Any]) -> None:
    """Keeps nothing of what an allocator has learned."""


@dataclass(frozen=True)
class AllocationProblem:
    """What an allocator may look at.

    Attributes:
        budget: what a strategy may cost.
        errors: group name -> reconstruction error at each of `Budget.options`; empty if none are
            known.
        importance: gives `scores`.
        damage: gives `losses`.
        seed: of everything random.
        episodes: strategies that may be tried.
        known: what earlier runs have learned, by the name under which they saved it.
        save: keeps what this run has learned: a name, and JSON values.
    """

    budget: Budget
    errors: Errors = field(default_factory=dict)
    importance: Callable[[], Scores] | None = None
    damage: Callable[[], Scores] | None = None
    seed: int = 0
    episodes: int = 200
    known: Mapping[str, Any] = field(default_factory=dict)
    save: Callable[[str, Mapping[str, Any]], None] = forget

    @cached_property
    def scores(self) -> Scores:
        """Group name -> importance of every channel, [size], comparable between groups.

        Higher stays. Computed when it is first asked for; without a metric, of the errors.
        """
        if self.importance is not None:
            return self.importance()
        return scores_from_errors(self.budget, self.errors)

    @cached_property
    def losses(self) -> Scores:
        """Group name -> loss that every channel is worth, [size]; computed when first asked for.

        Without a metric in this unit, `scores`.
        """
        return self.damage() if self.damage is not None else self.scores


Allocator: TypeAlias = Callable[[AllocationProblem], Strategy | Proposals]
"""A strategy at once, or a generator of strategies, which is sent the reward of each."""


def solved_by(solver: Solver) -> Allocator:
    """The allocator that hands budget and errors to a solver."""
    return lambda problem: solver(problem.budget, problem.errors)
