"""A band of strategies that one network is trained for: around some budgets.

Where one training makes all slices of a network work (`amc.training.slimmable`), it should not be
spent on slices that no search will ask for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from amc.allocators.family import family
from amc.allocators.scores import Errors
from amc.allocators.uniform import uniform
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.objectives.objective import together
from amc.proposals.variations import Variations
from amc.runtime.errors import InfeasibleBudgetError

NARROW = 0.7
"""The narrowest slice that is trained costs this part of the least target."""

DRAWN = 2
"""Slices between the widest and the narrowest in every step."""


@dataclass(frozen=True)
class Band:
    """The strategies that one network is trained for.

    Attributes:
        budgets: of the original, within what the widest strategy keeps.
        widest, narrowest: strategies; all of the band lie between, or nearly.
        errors: of every group, for each budget; empty where they are not known yet.
    """

    budgets: tuple[Budget, ...]
    widest: Strategy
    narrowest: Strategy
    errors: tuple[Errors, ...] = ()

    @classmethod
    def around(cls, budgets: Sequence[Budget], ratio: float) -> "Band":
        """The band of these budgets.

        Args:
            budgets: of one network.
            ratio: the widest strategy costs this multiple of the largest target, or what the whole
                network does.
        """
        wide = [uniform(scaled(one, ratio)) for one in budgets] + [uniform(b) for b in budgets]
        widest = {name: max(one[name] for one in wide) for name in wide[0]}
        graph = with_most(budgets[0].graph, widest)
        within = tuple(replace(one, graph=graph) for one in budgets)
        least = min(within, key=lambda one: one.preserve_ratio)
        try:
            narrowest = uniform(scaled(least, NARROW))
        except InfeasibleBudgetError:
            narrowest = least.strategy([int(options[0]) for options in least.options])
        return cls(within, widest, narrowest)

    @property
    def graph(self) -> ChannelGraph:
        """Of the original, whose groups keep no more than the widest strategy."""
        return self.budgets[0].graph

    @property
    def fewest(self) -> dict[str, int]:
        """The fewest channels that any of the strategies keeps of a group."""
        groups = enumerate(self.graph.decisions)
        allowed = {g.name: min(int(b.options[t][0]) for b in self.budgets) for t, g in groups}
        return {name: min(count, self.narrowest[name]) for name, count in allowed.items()}

    @cached_property
    def centres(self) -> list[list[Strategy]]:
        """What needs no search, under each budget: the uniform strategy first."""
        errors = self.errors or ({},) * len(self.budgets)
        return [family(*pair) for pair in zip(self.budgets, errors, strict=True)]

    def draw(self, rng: np.random.Generator) -> list[dict[str, int]]:
        """Strategies as a search tries them: variations of those that need none."""
        found = []
        for _ in range(DRAWN):
            which = int(rng.integers(len(self.budgets)))
            centre = self.centres[which][rng.integers(len(self.centres[which]))]
            vary = Variations(self.budgets[which], candidates=1)
            found.append(vary([vary.tried(centre, 0.0)], rng))
        return found


def scaled(budget: Budget, factor: float) -> Budget:
    """A budget whose target is this multiple of the given one's; the whole network's at most.

    Raises:
        InfeasibleBudgetError: it cannot be reached.
    """
    if budget.objective is None or not budget.objective.parts:
        return replace(budget, preserve_ratio=min(1.0, factor * budget.preserve_ratio))
    full = budget.graph.counts({})
    parts = [(one, min(1.0, factor * part)) for one, part in budget.limits]
    objective = together(parts, full)
    ratio = min(1.0, 1 / float(objective(full)))
    return replace(budget, objective=objective, preserve_ratio=ratio)


def with_most(graph: ChannelGraph, most: Mapping[str, int]) -> ChannelGraph:
    """The same graph, in which no group keeps more than this."""
    groups = tuple(
        replace(g, least=min(g.least, most[g.name]), most=most[g.name]) if g.prunable else g
        for g in graph.groups
    )
    return replace(graph, groups=groups)
