"""When channels go: curves against their formulas, stages that end at the strategy."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from amc.schedules.stages import (
    Kind,
    densities,
    group_by_group,
    little_by_little,
    shared_out,
    towards,
)

KINDS: tuple[Kind, ...] = tuple(k for k in get_args(Kind) if k not in ("multistep", "adaptive"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("final", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
def test_every_curve_falls_to_its_end(kind: Kind, final: float, steps: int) -> None:
    curve = densities(kind, final, steps)
    assert len(curve) == (1 if kind == "one-shot" else steps)
    assert curve[-1] == final
    assert all(a >= b for a, b in pairwise([1.0, *curve]))


def test_curves_are_those_of_their_papers() -> None:
    p = np.arange(1, 9) / 8
    assert densities("linear", 0.2, 8) == pytest.approx(1 - 0.8 * p)
    assert densities("agp", 0.2, 8) == pytest.approx(0.2 + 0.8 * (1 - p) ** 3)
    assert densities("exponential", 0.2, 8) == pytest.approx(0.2**p)


@pytest.mark.parametrize("steps", [8, 49, 100, 800])
def test_biased_exponential_has_made_three_quarters_after_an_eighth(steps: int) -> None:
    """Where the original's solver stays at its start, T = 49 and 99 (algorithms: 5.3), too."""
    cut = 1 - np.array([1.0, *densities("exponential-bias", 0.5, steps)])
    assert np.interp(1 / 8, np.arange(steps + 1) / steps, cut) == pytest.approx(0.375, abs=0.003)
    rates = -np.diff(np.log(np.diff(cut)))  # a exp(-k x): constant ratios
    assert rates == pytest.approx(np.full(len(rates), rates[0]), rel=1e-6)


SIZES = {"a": 16, "b": 7, "c": 64, "d": 3}
STRATEGY = {"a": 4, "b": 7, "c": 60, "d": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_stages_cut_every_time_and_end_at_the_strategy(kind: Kind, steps: int) -> None:
    stages, reached = little_by_little(SIZES, STRATEGY, kind, steps), dict(SIZES)
    assert 1 <= len(stages) <= steps
    for stage in stages:
        assert stage and all(count < reached[name] for name, count in stage.items())
        reached |= stage
    assert reached == STRATEGY


def test_multistep_makes_the_given_parts_of_the_cut() -> None:
    assert densities("multistep", 0.2, 99, (0.25, 0.5)) == pytest.approx([0.8, 0.6, 0.2])
    assert densities("multistep", 0.2, 99) == [0.2]
    stages = little_by_little({"a": 20}, {"a": 4}, "multistep", 99, (0.25, 0.5))
    assert stages == [{"a": 16}, {"a": 12}, {"a": 4}]


def test_a_part_of_the_way_takes_a_channel_at_least_and_the_whole_way_arrives() -> None:
    assert towards(SIZES, STRATEGY, 1.0) == {"a": 4, "c": 60, "d": 1}
    assert towards(SIZES, STRATEGY, 0.5) == {"a": 10, "c": 62, "d": 2}
    assert towards(SIZES, STRATEGY, 0.01) == {"a": 15, "c": 63, "d": 2}
    assert towards(STRATEGY, STRATEGY, 0.5) == {}


def test_a_strategy_that_keeps_all_has_no_stages() -> None:
    assert little_by_little(SIZES, SIZES, "agp", 4) == []


def test_groups_one_after_the_other() -> None:
    stages = group_by_group(SIZES, {"a": 4, "c": 60}, 3)
    assert stages == [{"a": 4, "b": 7, "c": 60}, {"d": 3}]


@pytest.mark.parametrize(
    ("epochs", "stages", "between", "expected"),
    [
        (10, 4, None, [2, 2, 2, 4]),
        (3, 4, None, [0, 0, 0, 3]),
        (10, 3, 0.4, [2, 2, 6]),
        (10, 3, 1.0, [5, 5, 0]),
        (10, 1, 0.5, [10]),
        (0, 2, 0.5, [0, 0]),
    ],
)
def test_epochs_are_all_spent(
    epochs: int, stages: int, between: float | None, expected: list[int]
) -> None:
    assert shared_out(epochs, stages, between) == expected
