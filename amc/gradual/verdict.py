"""What came of finals: in words, and for the report."""

from collections.abc import Sequence
from typing import Any

from amc.gradual.halving import Round
from amc.runtime.wording import counted
from amc.steps.candidates import Candidates
from amc.tasks.drop import Drop
from amc.tasks.task import Task

NOTHING_TO_WIN = "widths do not matter here"


def told_of(
    task: Task, names: Sequence[str], number: int, one: Round, going: Sequence[int]
) -> str:
    """A round in one line."""
    best, first = one.ranking[0], one.scores[0].mean
    after = counted(one.before + one.epochs, "epoch")
    shown = f"{names[best]} {task.shown(one.scores[best].mean)}"
    if best:
        shown += f", {names[0]} {task.shown(first)}"
    on = f"; {len(going)} go on" if going else ""
    return f"round {number + 1}  {len(one.scores)} trained for {after}: best {shown}{on}"


def verdict(
    task: Task, names: Sequence[str], rounds: Sequence[Round], winner: int, drop: Drop
) -> str:
    """Which finalist the final training begins with, and why.

    Args:
        task: what the scores are.
        names: of the finalists.
        rounds: all.
        winner: which of them.
        drop: what the best of the last round loses against the first finalist.
    """
    first, count, last = names[0], len(rounds[0].scores), rounds[-1]
    gain = difference(task, -drop.points, drop.error)
    if winner:
        after = counted(last.before + last.epochs, "epoch")
        return f"finals   {names[winner]} is {gain} better than {first} after {after} each"
    if last.ranking[0] == 0:
        return f"finals   {NOTHING_TO_WIN}: {first} is the best of {count} trained finalists"
    return (
        f"finals   {NOTHING_TO_WIN}: {first} is within {gain} of the best of {count} trained "
        "finalists"
    )


def difference(task: Task, points: float, error: float) -> str:
    """A difference of scores: in points of a percentage, or in what the task counts."""
    if task.percent:
        return f"{points:.2f} ± {error:.2f} points"
    return f"{points:.3g} ± {error:.2g}"


def account(
    task: Task, found: Candidates, rounds: Sequence[Round], winner: int
) -> list[dict[str, Any]]:
    """The rounds as JSON values, the best finalist of each first.

    Differences are those to the first finalist, in points, with their standard errors; under
    ``goes_on`` the names of those that were trained further, in the end that of the winner.
    """
    told = []
    for one, after in zip(rounds, [*rounds[1:], None], strict=True):
        entries = []
        for place in one.ranking:
            drop = one.against_first(task, place)
            entries.append(
                {
                    "name": found.names[place],
                    "strategy": dict(found.strategies[place]),
                    "score": one.scores[place].mean,
                    "difference": 0.0 - drop.points,
                    "error": drop.error if place else 0.0,
                    "first": place == 0,
                }
            )
        going = [place for place in one.ranking if place in after.scores] if after else [winner]
        told.append(
            {
                "epochs": one.epochs,
                "before": one.before,
                "images": sum(one.scores[0].images),
                "finalists": entries,
                "goes_on": [found.names[place] for place in going],
            }
        )
    return told
