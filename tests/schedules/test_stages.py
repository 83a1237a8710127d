"""When channels go: stages that end at the strategy."""

from functools import partial

import pytest

from amc.schedules.curves import SCHEDULES
from amc.schedules.stages import group_by_group, little_by_little, shared_out, towards

SIZES = {"a": 16, "b": 7, "c": 64, "d": 3}
STRATEGY = {"a": 4, "b": 7, "c": 60, "d": 1}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_stages_cut_every_time_and_end_at_the_strategy(name: str, steps: int) -> None:
    stages, reached = little_by_little(SIZES, STRATEGY, SCHEDULES[name], steps), dict(SIZES)
    assert 1 <= len(stages) <= steps
    for stage in stages:
        assert stage and all(count < reached[name] for name, count in stage.items())
        reached |= stage
    assert reached == STRATEGY


def test_first_stage_is_the_initial_level_where_there_is_one() -> None:
    """NNCF: 0.1 to 0.4 in 15 epochs, of 1000 filters, levels after each."""
    curve = partial(SCHEDULES["exponential"], start=0.9)
    stages = little_by_little({"a": 1000}, {"a": 600}, curve, 15, from_start=True)
    assert [s["a"] for s in stages] == [round(900 * (2 / 3) ** (e / 14)) for e in range(15)]


def test_group_that_loses_less_than_the_initial_level_loses_all_of_it_at_once() -> None:
    curve = partial(SCHEDULES["linear"], start=0.5)
    stages = little_by_little({"a": 20, "b": 20}, {"a": 18, "b": 4}, curve, 3, from_start=True)
    assert stages == [{"a": 18, "b": 10}, {"b": 7}, {"b": 4}]


def test_multistep_makes_the_given_parts_of_the_cut() -> None:
    curve = partial(SCHEDULES["multistep"], parts=(0.25, 0.5))
    stages = little_by_little({"a": 20}, {"a": 4}, curve, 3)
    assert stages == [{"a": 16}, {"a": 12}, {"a": 4}]


def test_a_part_of_the_way_takes_a_channel_at_least_and_the_whole_way_arrives() -> None:
    assert towards(SIZES, STRATEGY, 1.0) == {"a": 4, "c": 60, "d": 1}
    assert towards(SIZES, STRATEGY, 0.5) == {"a": 10, "c": 62, "d": 2}
    assert towards(SIZES, STRATEGY, 0.01) == {"a": 15, "c": 63, "d": 2}
    assert towards(STRATEGY, STRATEGY, 0.5) == {}


def test_a_strategy_that_keeps_all_has_no_stages() -> None:
    assert little_by_little(SIZES, SIZES, SCHEDULES["agp"], 4) == []


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
