"""How much, decided anew in every turn of a schedule, on the network that training has left."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amc.config.train import TrainConfig
from amc.gradual.loop import Left, Turn
from amc.graph.arrays import IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.objectives.objective import Costs, Objective, limit_of, together
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.schedules.curves import Schedule as Curve
from amc.schedules.curves import densities
from amc.steps.allocate import Allocation, candidates
from amc.steps.job import Job
from amc.steps.setup import Network

ROUNDED = 1e-12
"""By which a limit that is no whole number is lowered, so that no rounding exceeds it."""


@dataclass(frozen=True)
class Reallocation:
    """An allocator under intermediate objectives.

    Every cost that the budget limits follows the schedule from that of the whole network to its
    limit. The record of each turn's search has a folder of its own, so that a run that was stopped
    goes on.

    Attributes:
        job: the run.
        network: the original.
        allocation: under the whole budget.
        config: what allocates.
        curve: of the schedule.
        folder: of the run.
        log: is told of every episode.
    """

    job: Job
    network: Network
    allocation: Allocation
    config: TrainConfig
    curve: Curve
    folder: Path
    log: TensorBoardLog

    def __call__(self, left: Left, turn: Turn) -> list[Strategy]:
        """Strategies for the network that is left, within the limits of the turn."""
        limits = self.limits(turn)
        if within_limits(self.budget.graph, left, limits):
            return [dict(left.counts)]
        budget = intermediate(self.budget, left, limits)
        place = self.folder / f"stage-{left.turns + 1}"
        place.mkdir(exist_ok=True)
        network = replace(self.network, model=left.network, graph=budget.graph)
        found = candidates(
            self.job,
            network,
            left.compressor,
            Allocation(budget=budget, policy=self.allocation.policy),
            self.config,
            place,
            self.log,
        )
        return list(found.strategies)

    def reached(self, left: Left, turn: Turn) -> bool:
        """Whether all costs are within the limits of the turn."""
        return within_limits(self.budget.graph, left, self.limits(turn))

    @property
    def bounds(self) -> ChannelGraph:
        """The graph of the original, its groups bounded below as the budget bounds them."""
        graph, options = self.budget.graph, self.budget.options
        least = {g.name: int(o[0]) for g, o in zip(graph.decisions, options, strict=True)}
        groups = [replace(g, least=least[g.name]) if g.prunable else g for g in graph.groups]
        return replace(graph, groups=tuple(groups))

    @property
    def budget(self) -> Budget:
        """The whole budget."""
        assert self.allocation.budget is not None
        return self.allocation.budget

    def limits(self, turn: Turn) -> list[tuple[Objective, float]]:
        """What is limited, and how far, in the unit of each."""
        whole = self.budget.graph.counts({})
        return [(one, limit_of(one, whole, part)) for one, part in self.parts(turn.step)]

    def parts(self, step: int) -> list[tuple[Objective, float]]:
        """What is limited, and the part of the original's that may be left after a step."""
        steps, begins = self.config.stages.steps, self.config.stages.schedule_init is not None
        curves = [
            (one, densities(self.curve, final, steps, begins)) for one, final in self.budget.limits
        ]
        return [(one, curve[step]) for one, curve in curves]

    def named(self, turn: Turn) -> Turn:
        """A turn that says what it is to reach."""
        if turn.aim is None:
            return turn
        return replace(turn, name=", ".join(f"{o.name} {p:.3g}" for o, p in self.parts(turn.step)))


def within_limits(graph: ChannelGraph, left: Left, limits: list[tuple[Objective, float]]) -> bool:
    """Whether what is left costs no more than it may."""
    counts = graph.counts(left.counts)
    return all(one(counts) <= limit for one, limit in limits)


def intermediate(budget: Budget, left: Left, limits: list[tuple[Objective, float]]) -> Budget:
    """A budget on what is left of a network, in the costs of the original.

    Args:
        budget: of the original.
        left: of the network; more than the limits allow.
        limits: what may be left.

    Raises:
        InfeasibleBudgetError: the limits cannot be met.
    """
    graph = left.compressor.graph
    full, parts = graph.counts({}), []
    for one, limit in limits:
        carried = carried_over(one, budget.graph, graph, left)
        part = limit / carried(full) * (1.0 if carried.form else 1 - ROUNDED)
        parts.append((carried, min(1.0, part)))
    objective, ratio = parts[0]
    if len(parts) > 1:
        objective = together(parts, full)
        ratio = 1 / float(objective(full))
    return Budget(graph, ratio, budget.tolerance, budget.multiple, 0.0, "", objective)


def carried_over(
    objective: Objective, original: ChannelGraph, graph: ChannelGraph, left: Left
) -> Objective:
    """What strategies of a network that was cut cost, counted as on the original."""
    names = [group.name for group in original.decisions]
    if names == [group.name for group in graph.decisions]:
        return objective
    places = [names.index(group.name) for group in graph.decisions]
    base = original.counts(left.counts)

    def of(counts: IntArray) -> Costs:
        whole = np.tile(base, (len(counts), 1))
        whole[:, places] = counts
        return objective.of(whole)

    return Objective(objective.name, objective.unit, of)
