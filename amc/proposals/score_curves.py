"""Every group alone is cut at several ratios and measured; a common level of the score decides.

The greedy compression-ratio selection of AIMET: a table of scores per layer and ratio, made
monotone, and the highest level of the score to which every group may fall by itself such that all
together meet the budget. AIMET's scan leaves a layer whole whose strongest cut has exactly the
level's score; here a group takes the fewest channels whose score is at the level or above.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amc.allocators.problem import AllocationProblem, Proposals
from amc.allocators.scores import rising
from amc.allocators.uniform import uniform
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.plan import Strategy
from amc.objectives.budget import Budget
from amc.runtime.errors import AmcError
from amc.runtime.wording import suggestion

NAME = "score_curves"
"""Under which the table is saved."""

OTHERS = 3
"""Episodes that cut no single group: the uniform strategy, the whole network, the answer."""


@dataclass(frozen=True)
class ScoreCurves:
    """The score of the network when one group alone keeps a number of channels.

    Attributes:
        whole: score of the network before any cut.
        table: group name -> kept channels -> score.
    """

    whole: float
    table: dict[str, dict[int, float]] = field(default_factory=dict)

    def curve(self, name: str, options: IntArray, errors: FloatArray, rate: float) -> FloatArray:
        """The score at each of a group's options, never falling with the count.

        Between measured counts it is linear; below the lowest it goes on as the errors do, by the
        group's own rate down to there, or by ``rate`` where it has none.

        Args:
            name: of the group.
            options: allowed counts, increasing.
            errors: at these counts.
            rate: drop of the score for each unit of error, as it usually is.
        """
        known = {**self.table.get(name, {}), int(options[-1]): self.whole}
        counts = np.array(sorted(known))
        scores = monotone(np.array([known[k] for k in counts.tolist()]))
        found: FloatArray = np.interp(options, counts, scores)
        lowest = int(np.searchsorted(options, counts[0]))
        dropped, error = scores[-1] - scores[0], errors[lowest] - errors[-1]
        rate = dropped / error if dropped > 0 and error > 0 else rate
        more = np.maximum(errors[:lowest] - errors[lowest], 0)
        found[:lowest] = scores[0] - rate * np.maximum.accumulate(more[::-1])[::-1]
        return found

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        table = {name: {str(k): s for k, s in row.items()} for name, row in self.table.items()}
        return {"whole": self.whole, "groups": table}


def monotone(scores: FloatArray) -> FloatArray:
    """The nearest scores that never fall, in least squares, [N]."""
    return rising(scores, np.ones(len(scores), dtype=np.int64))


def greedy(problem: AllocationProblem) -> Strategy | Proposals:
    """The strategy of a table that was measured before, at once; else it measures one."""
    if NAME not in problem.known:
        return measured(problem)
    return at_common_level(problem, read_curves(problem.known[NAME], problem.budget))


def measured(problem: AllocationProblem) -> Proposals:
    """Cuts one group after the other, then tries what the scores lead to.

    Cuts of one group cost more than the budget allows: they are measured, not chosen. There are
    as many of them as the episodes allow, of every group equally many; where they do not go
    round, groups that save most come first.
    """
    budget = problem.budget
    yield uniform(budget, problem.errors or None)
    cuts = single_cuts(budget, problem.episodes - OTHERS)
    curves = ScoreCurves(0.0)
    if cuts:
        curves = ScoreCurves((yield budget.strategy([int(o[-1]) for o in budget.options])))
    for t, count in cuts:
        counts = [int(o[-1]) for o in budget.options]
        counts[t] = count
        score = yield budget.strategy(counts)
        curves.table.setdefault(budget.graph.decisions[t].name, {})[count] = score
        problem.save(NAME, curves.as_json())
    yield at_common_level(problem, curves)


def single_cuts(budget: Budget, number: int) -> list[tuple[int, int]]:
    """Groups and the counts that each is cut to, alone; ``number`` of them at most, or all."""
    options = budget.options
    least = np.tile([int(o[-1]) for o in options], (len(options), 1))
    least[np.arange(len(options)), np.arange(len(options))] = [int(o[0]) for o in options]
    order = np.argsort(budget.cost_of(least), kind="stable")  # what saves most comes first
    able = [t for t in order.tolist() if len(options[t]) > 1]
    shares = dict.fromkeys(able, 0)
    while number > 0 and able:
        for t in able[:number]:
            shares[t] += 1
        number -= len(able)
        able = [t for t in able if shares[t] < len(options[t]) - 1]
    found = []
    for t, share in shares.items():
        last = len(options[t]) - 1
        between = np.rint(np.linspace(last, 0, share + 2)[1:-1]).astype(int)  # evenly spaced
        places = between if share < last else np.arange(last - 1, -1, -1)
        found += [(t, int(options[t][place])) for place in places]
    return found


def at_common_level(problem: AllocationProblem, curves: ScoreCurves) -> dict[str, int]:
    """Every group at the fewest channels that keep its score at the highest level that fits."""
    budget, rows = problem.budget, list[FloatArray]()
    rate = _rate(problem, curves)
    for group, options in zip(budget.graph.decisions, budget.options, strict=True):
        errors = problem.errors.get(group.name, 1 - options / group.size)
        rows.append(curves.curve(group.name, options, errors, rate))
    levels = np.unique(np.concatenate(rows))

    def at(level: float) -> IntArray:
        places = (min(int(np.searchsorted(row, level)), len(row) - 1) for row in rows)
        return np.array([o[place] for o, place in zip(budget.options, places, strict=True)])

    low, high = 0, len(levels) - 1  # at the lowest level all take their fewest channels: it fits
    while low < high:
        middle = (low + high + 1) // 2
        if budget.cost(at(levels[middle])) <= budget.target:
            low = middle
        else:
            high = middle - 1
    return budget.strategy(budget.complete(at(levels[low]).tolist()))


def _rate(problem: AllocationProblem, curves: ScoreCurves) -> float:
    """How much the score usually falls for each unit of error; 1 if nothing was measured."""
    budget, found = problem.budget, list[float]()
    for group, options in zip(budget.graph.decisions, budget.options, strict=True):
        errors = problem.errors.get(group.name, 1 - options / group.size)
        for count, score in curves.table.get(group.name, {}).items():
            error = float(np.interp(count, options, errors) - errors[-1])
            if error > 0:
                found.append(max(curves.whole - score, 0.0) / error)
    return float(np.median(found)) if found else 1.0


def read_curves(content: Mapping[str, Any], budget: Budget) -> ScoreCurves:
    """A table as `ScoreCurves.as_json` gives it.

    Raises:
        AmcError: it is damaged, or of another network.
    """
    where, sizes = content.get("path", "score_curves.json"), budget.graph.sizes
    try:
        table = {
            str(name): {int(k): float(score) for k, score in row.items()}
            for name, row in content["groups"].items()
        }
        curves = ScoreCurves(float(content["whole"]), table)
        numbers = [curves.whole, *(s for row in table.values() for s in row.values())]
        if not np.isfinite(numbers).all():
            raise ValueError("a score is not finite")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AmcError(f"{where}: damaged table of scores: {error!r}") from None
    for name, row in table.items():
        if name not in sizes:
            raise AmcError(f"{where}: {name!r} is no group{suggestion(name, sizes)}")
        if wrong := [k for k in row if not 0 <= k <= sizes[name]]:
            raise AmcError(f"{where}: {name} has {sizes[name]} channels, not {wrong[0]}")
    return curves
