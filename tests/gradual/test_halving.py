"""Successive halving: who trains how long, counted by hand; who wins, in closed form."""

import math
from collections.abc import Sequence

import pytest

from amc.gradual.halving import Round, decided, going_on, halved, rounds_of
from amc.tasks.drop import PartScores
from amc.tasks.task import CLASSIFICATION, Task

ROUNDS = {
    2: [(2, 1)],
    3: [(3, 1)],
    4: [(4, 1), (2, 2)],
    5: [(5, 1), (2, 2)],
    6: [(6, 1), (2, 2)],
    7: [(7, 1), (3, 2)],
    8: [(8, 1), (3, 2)],
    9: [(9, 1), (3, 2)],
    10: [(10, 1), (4, 2), (2, 4)],
    11: [(11, 1), (4, 2), (2, 4)],
    12: [(12, 1), (4, 2), (2, 4)],
    13: [(13, 1), (5, 2), (2, 4)],
    14: [(14, 1), (5, 2), (2, 4)],
    15: [(15, 1), (5, 2), (2, 4)],
    16: [(16, 1), (6, 2), (2, 4)],
    17: [(17, 1), (6, 2), (2, 4)],
    18: [(18, 1), (6, 2), (2, 4)],
    19: [(19, 1), (7, 2), (3, 4)],
    20: [(20, 1), (7, 2), (3, 4)],
}


def alike(score: float, parts: int = 20) -> PartScores:
    return PartScores((score,) * parts, (50,) * parts)


class Trainer:
    """Scores that are known for every contestant and every number of epochs; notes what it did."""

    def __init__(self, *scores: Sequence[float]) -> None:
        self.scores, self.done = scores, list[tuple[int, list[int], int, int]]()

    def __call__(
        self, number: int, going: Sequence[int], epochs: int, before: int
    ) -> list[PartScores]:
        self.done.append((number, list(going), epochs, before))
        return [alike(self.scores[one][number]) for one in going]


@pytest.mark.parametrize("count", ROUNDS)
def test_rounds_are_those_counted_by_hand(count: int) -> None:
    assert rounds_of(count, 1) == ROUNDS[count]
    assert rounds_of(count, 3) == [(many, 3 * epochs) for many, epochs in ROUNDS[count]]
    assert going_on(count) == max(2, math.ceil(count / 3))


@pytest.mark.parametrize("count", ROUNDS)
def test_the_better_third_trains_on_and_the_first_one_always(count: int) -> None:
    # the later, the better: the first one is the worst
    trainer = Trainer(*([0.5 + one / 100] * 3 for one in range(count)))
    rounds = halved(count, 1, trainer)
    expected, before = [], 0
    for number, (many, epochs) in enumerate(ROUNDS[count]):
        best = list(range(count - many, count))
        expected.append((number, sorted({0, *best}), epochs, before))
        before += epochs
    assert trainer.done == expected
    assert decided(CLASSIFICATION, rounds[-1])[0] == count - 1


def test_what_learns_late_is_found() -> None:
    """The fifth of nine is the third at first, and the best of those that went on."""
    first = [0.60, 0.72, 0.50, 0.51, 0.70, 0.52, 0.71, 0.53, 0.54]
    then = [0.80, 0.81, 0, 0, 0.90, 0, 0.82, 0, 0]
    rounds = halved(9, 1, Trainer(*zip(first, then, strict=True)))
    assert sorted(rounds[-1].scores) == [0, 1, 4, 6]
    assert decided(CLASSIFICATION, rounds[-1])[0] == 4


def test_of_equal_ones_the_first_goes_on() -> None:
    trainer = Trainer(*([[0.5, 0.5]] * 6))
    halved(6, 1, trainer)
    assert trainer.done[1][1] == [0, 1]


def test_what_is_told() -> None:
    told: list[tuple[int, int, list[int]]] = []
    halved(
        4, 2, Trainer([0.1, 0.1], [0.2, 0.2], [0.3, 0.3], [0.4, 0.4]),
        lambda number, one, going: told.append((number, one.epochs, list(going))),
    )  # fmt: skip
    assert told == [(0, 2, [0, 2, 3]), (1, 4, [])]


@pytest.mark.parametrize(("better", "wins"), [(9, True), (8, True), (7, False), (5, False)])
def test_a_difference_of_no_more_than_its_error_is_none(better: int, wins: bool) -> None:
    """Of 20 parts of 10 images, so many have one hit more, and 4 have one less.

    With m of n parts above and 4 below, the mean is 10 (m - 4) / n points and the variance of the
    mean (100 (m + 4) / n - mean²) / (n - 1).
    """
    n = 20
    first = PartScores((0.5,) * n, (10,) * n)
    changes = [0.1] * better + [-0.1] * 4 + [0.0] * (n - better - 4)
    other = PartScores(tuple(0.5 + change for change in changes), (10,) * n)
    winner, drop = decided(CLASSIFICATION, Round(1, 0, {0: first, 3: other}))
    mean = 10 * (better - 4) / n
    error = math.sqrt((100 * (better + 4) / n - mean**2) / (n - 1))
    assert -drop.points == pytest.approx(mean, abs=1e-5)
    assert drop.error == pytest.approx(error, rel=1e-5)
    assert wins == (mean > error)
    assert winner == (3 if wins else 0)


def test_no_difference_at_all_is_none_in_any_unit() -> None:
    other = Task("minus RMSE", lambda y, t: (y - t).square().mean(), lambda results: 0.0)
    for task in (CLASSIFICATION, other):
        same = Round(1, 0, {0: alike(-2.0), 1: alike(-2.0)})
        assert decided(task, same)[0] == 0


def test_parts_of_different_sizes_count_by_their_images() -> None:
    one = PartScores((1.0, 0.0), (30, 10))
    assert one.mean == 0.75
    assert Round(1, 0, {0: PartScores((0.0, 1.0), (30, 10)), 2: one}).ranking == [2, 0]
