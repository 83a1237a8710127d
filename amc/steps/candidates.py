"""What a run may cut: strategies or a plan, and what came of their training so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from amc.allocators.scores import Errors
from amc.config.sections.search import SearchConfig
from amc.graph.plan import Plan, Strategy
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.search.finalists import Finalist, finalists, without_search


@dataclass(frozen=True)
class Begun:
    """A network whose training has begun before the final one.

    Attributes:
        network: under the one strategy that is left.
        epochs: that it was trained.
    """

    network: nn.Module
    epochs: int


@dataclass(frozen=True)
class Candidates:
    """What may be cut.

    Attributes:
        strategies: of which the best one is chosen.
        plan: the channels as well, where they are given.
        tried: how many strategies were evaluated to find these.
        budget: what these may cost, where that decided.
        cut: carries out a plan, where that is not the reconstruction layer by layer.
        compressor: tells which channels stay, where the run's own does not.
        shared: scores of the shared weights that strategies were judged by, if they were.
        names: of the strategies for people, where they are to be trained before one is chosen; all
            are compared with the first.
        begun: what came of that: the one that is left.
        finals: and how it was chosen, as JSON values.
        trained: forward MACs of all images in all trainings so far, by step; the teacher's apart.
    """

    strategies: Sequence[Strategy] = ()
    plan: Plan | None = None
    tried: int = 0
    budget: Budget | None = None
    cut: Callable[[Plan], nn.Module] | None = None
    compressor: Compressor | None = None
    shared: Mapping[str, Any] | None = None
    names: Sequence[str] = ()
    begun: Begun | None = None
    finals: Sequence[Mapping[str, Any]] = ()
    trained: Mapping[str, int] = field(default_factory=dict)

    def having_trained(self, **macs: int) -> "Candidates":
        """The same after further trainings, by step; what a step had before is added to."""
        sums = {step: self.trained.get(step, 0) + one for step, one in macs.items()}
        return replace(self, trained={**self.trained, **sums})


def in_final(
    found: Sequence[Strategy], name: str, budget: Budget, errors: Errors, config: SearchConfig
) -> Candidates:
    """What was found; with what needs no search, if all are to be trained before one is chosen.

    Args:
        found: the best first.
        name: of what has found them.
        budget: what they may cost.
        errors: of every group.
        config: how many are trained, and whether.
    """
    if not config.finalist_epochs:
        return Candidates(found, budget=budget)
    numbered = [Finalist(f"{name} {i}", one) for i, one in enumerate(found, 1)]
    if len(found) == 1:
        numbered = [Finalist(name, found[0])]
    chosen = finalists(numbered, without_search(budget, errors), config.finalists)
    return Candidates([c.strategy for c in chosen], budget=budget, names=[c.name for c in chosen])
