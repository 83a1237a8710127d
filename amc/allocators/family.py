"""Plans that need no search: few numbers say how much every group keeps.

Residual networks can be thinned in two places: in the streams that run through all blocks of a
stage, and inside the blocks. Other networks differ along their depth, in how much a group minds
being cut, and in whether a depthwise layer works on it. `Shape` has one number for each of these;
all of 0 and 1 are the uniform strategy.

Whatever the numbers, a strategy uses the budget up and never exceeds it.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from amc.allocators.scores import Errors
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.runtime.errors import InfeasibleBudgetError

EXPONENTS = (0.25, 0.5, 0.75)
"""Of the sensitivity, in the family."""

FARTHEST = 1e3
"""A group's sensitivity is taken to be this many times the median at most, or a part of it."""


@dataclass(frozen=True)
class Shape:
    """Four numbers that say which part of its channels a group keeps, up to a common factor.

    Attributes:
        exponent: of the group's sensitivity relative to the median.
        stream: factor for residual streams.
        depth: by how much the logarithm grows from the first group to the last.
        depthwise: factor for groups that a depthwise layer computes or reads.
    """

    exponent: float = 0.0
    stream: float = 1.0
    depth: float = 0.0
    depthwise: float = 1.0

    def __str__(self) -> str:
        """The numbers, for people."""
        return ", ".join(f"{name} {value:.3g}" for name, value in asdict(self).items())


def weights(budget: Budget, errors: Errors, shape: Shape) -> FloatArray:
    """Parts of the groups that a shape keeps, up to a common factor, [T].

    Args:
        budget: the counts at which errors are known.
        errors: group name -> error, of any unit, at each of its `Budget.options`; groups of which
            none are known are like the median.
        shape: the four numbers.
    """
    graph = budget.graph
    number, through, filtered = len(graph.decisions), streams(graph), depthwise(graph)
    names = [group.name for group in graph.decisions]
    position = np.arange(number) / max(number - 1, 1) - 0.5
    position = position if number > 1 else np.zeros(1)
    found: FloatArray = sensitivities(budget, errors) ** shape.exponent
    found = found * np.where([name in through for name in names], shape.stream, 1.0)
    found = found * np.exp(shape.depth * position)
    return found * np.where([name in filtered for name in names], shape.depthwise, 1.0)


def shaped(budget: Budget, errors: Errors, shape: Shape) -> dict[str, int]:
    """The strategy of a shape that uses the budget up; where all weights are equal, uniform.

    Args:
        budget: what a strategy may cost.
        errors: see `weights`.
        shape: the four numbers.
    """
    shares = weights(budget, errors, shape)
    if np.ptp(shares) <= 1e-9 * shares.max():
        return uniform(budget, errors or None)
    return budget.strategy(budget.proportional(shares))


def sensitivities(budget: Budget, errors: Errors) -> FloatArray:
    """Errors of groups that keep half of their channels, relative to the median, [T]."""
    found = np.full(len(budget.options), np.nan)
    for t, (group, options) in enumerate(zip(budget.graph.decisions, budget.options, strict=True)):
        if group.name in errors:
            found[t] = np.interp(group.size / 2, options, errors[group.name])
    known = found[~np.isnan(found)]
    typical = float(np.median(known)) if len(known) else 0.0
    if typical <= 0:
        return np.ones(len(found))
    relative: FloatArray = np.nan_to_num(found / typical, nan=1.0)
    return relative.clip(1 / FARTHEST, FARTHEST)


def streams(graph: ChannelGraph) -> frozenset[str]:
    """Residual streams: groups in which the outputs of several layers are added up."""
    return frozenset(g.name for g in graph.groups if g.residual and len(g.writers) > 1)


def inside(graph: ChannelGraph) -> frozenset[str]:
    """Groups of residual branches: on a way from a stream to a stream without being one.

    What products of activations read instead of layers, such as the queries of an attention,
    leads to a stream as well.
    """
    through = streams(graph)
    writers = {g.name: set(g.writers) for g in graph.groups}
    readers = {g.name: set(g.readers) for g in graph.groups}
    after = {g: {h for h in writers if writers[h] & readers[g]} for g in readers}
    before = {h: {g for g in readers if h in after[g]} for h in writers}
    ends = {group.name for group in graph.decisions if not group.readers}
    both = _beyond(through, after) & _beyond(through | ends, before)
    return frozenset(both - through)


def _beyond(starts: Collection[str], edges: Mapping[str, set[str]]) -> set[str]:
    """What is reached from the starts, these included."""
    found, waiting = set(starts), list(starts)
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def depthwise(graph: ChannelGraph) -> frozenset[str]:
    """Groups that a depthwise layer computes or reads."""
    weighed = {layer.weight for layer in graph.layers if layer.kind == "depthwise"}
    return frozenset(g.name for g in graph.groups if any(m.tensor in weighed for m in g.members))


def streams_whole(budget: Budget, errors: Errors) -> dict[str, int] | None:
    """Residual streams keep all; one ratio for all other groups.

    None where there are none, where the budget does not allow it, and where it is the uniform
    strategy.
    """
    return _with_whole(budget, errors, streams(budget.graph))


def inside_only(budget: Budget, errors: Errors) -> dict[str, int] | None:
    """Only groups inside of residual branches are cut, by one ratio; None as `streams_whole`."""
    within = inside(budget.graph)
    if not within:
        return None
    return _with_whole(budget, errors, {n for n in budget.graph.sizes if n not in within})


def _with_whole(budget: Budget, errors: Errors, whole: Collection[str]) -> dict[str, int] | None:
    """The uniform strategy of the other groups where these keep all that they may."""
    most = {
        group.name: int(options[-1])
        for group, options in zip(budget.graph.decisions, budget.options, strict=True)
        if group.name in whole
    }
    if not most or len(most) == len(budget.options):
        return None
    groups = tuple(
        replace(g, least=most[g.name], most=most[g.name]) if g.name in most else g
        for g in budget.graph.groups
    )
    try:
        held = replace(budget, graph=replace(budget.graph, groups=groups), prior=())
    except InfeasibleBudgetError:
        return None
    known = {name: e[-1:] if name in most else e for name, e in errors.items()}
    counts = budget.complete(held.graph.counts(uniform(held, known or None)).tolist())
    found = budget.strategy(counts)
    kept = all(found[name] == count for name, count in most.items())
    return found if kept and found != uniform(budget, errors or None) else None


def family(budget: Budget, errors: Errors) -> list[Strategy]:
    """Distinct strategies that always take part in a final, the uniform one first.

    Then streams whole, inside only, and the sensitivities to the `EXPONENTS`.
    """
    found: list[Strategy] = [uniform(budget, errors or None)]
    shapes = [shaped(budget, errors, Shape(exponent)) for exponent in EXPONENTS]
    for one in (streams_whole(budget, errors), inside_only(budget, errors), *shapes):
        if one is not None and one not in found:
            found.append(one)
    return found
