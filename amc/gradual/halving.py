"""Successive halving: many contestants train a little, the better third of them twice as long.

Jamieson and Talwalkar 2016 (arXiv:1502.07943), with a third instead of a half, and with one
contestant, the first, that trains to the end whatever its scores are: the others are compared
with it, after exactly the same training. What a contestant is and how it is trained and scored is
the caller's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from amc.tasks.drop import Drop, PartScores, drop_between
from amc.tasks.task import Task

FEWEST, FEW = 2, 3
"""At least so many go on; a round of at most so many decides."""


@dataclass(frozen=True)
class Round:
    """Contestants that were trained equally long.

    Attributes:
        epochs: of this round.
        before: epochs of the rounds before.
        scores: contestant, by its place from 0, -> its scores after the training.
    """

    epochs: int
    before: int
    scores: Mapping[int, PartScores]

    @property
    def ranking(self) -> list[int]:
        """The best first; of equal ones, the one that comes first."""
        return sorted(self.scores, key=lambda one: (-self.scores[one].mean, one))

    def against_first(self, task: Task, one: int) -> Drop:
        """What a contestant loses against the first one."""
        return drop_between(task, self.scores[0], self.scores[one])


Train = Callable[[int, Sequence[int], int, int], Sequence[PartScores]]
"""(number of the round, contestants, epochs, epochs before) -> their scores."""

Told = Callable[[int, Round, Sequence[int]], None]
"""(number of the round, the round, contestants that go on: none after the last)."""


def rounds_of(count: int, epochs: int) -> list[tuple[int, int]]:
    """(contestants, epochs) of every round; later rounds may have the first contestant besides."""
    found = [(count, epochs)]
    while count > FEW:
        count, epochs = going_on(count), 2 * epochs
        found.append((count, epochs))
    return found


def going_on(count: int) -> int:
    """How many of a round train on: a third, rounded up."""
    return max(FEWEST, math.ceil(count / 3))


def halved(
    count: int,
    epochs: int,
    train: Train,
    told: Told = lambda number, one, going: None,
) -> list[Round]:
    """All rounds, down to one that decides.

    Args:
        count: contestants.
        epochs: of the first round.
        train: trains some of them further, and scores them.
        told: is told of every round.
    """
    rounds: list[Round] = []
    going, before = list(range(count)), 0
    plan = rounds_of(count, epochs)
    for number, (_, length) in enumerate(plan):
        scores = train(number, going, length, before)
        rounds.append(Round(length, before, dict(zip(going, scores, strict=True))))
        before += length
        best = rounds[-1].ranking[: plan[number + 1][0]] if number + 1 < len(plan) else []
        going = sorted({0, *best}) if best else []
        told(number, rounds[-1], going)
    return rounds


def decided(task: Task, last: Round) -> tuple[int, Drop]:
    """Who wins, and what the best of the last round loses against the first contestant.

    The first one, unless another is better by more than one standard error of the difference.
    """
    best = last.ranking[0]
    drop = last.against_first(task, best)
    return (best if drop.gains else 0), drop
