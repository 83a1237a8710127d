"""Numbers out of all reason, in every setting of every command: one short line each."""

import math
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import amc
from amc.config.apply import ApplyConfig
from amc.config.compare import CompareConfig
from amc.config.composed import hints_of
from amc.config.inspect import InspectConfig
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.train import TrainConfig
from amc.graph.restrictions import Restrictions
from amc.runtime.errors import AmcError
from amc.runtime.limits import MOST, shown
from amc.runtime.memory import parse_bytes
from amc.runtime.names import folder_settings

NEEDED: dict[type, dict[str, Any]] = {ApplyConfig: {"plan": Path("plan.json")}}
COMMANDS = (TrainConfig, ApplyConfig, LearnConfig, ParetoConfig, CompareConfig, InspectConfig)
ABSURD: list[Any] = [
    math.nan, math.inf, -math.inf, -1, -0.5, 10**25, -(10**25), 1e300, -1e300, 10**4000, 10**6000,
    2**64, True, "three", "1e9", [1], 1j,
]  # fmt: skip


def found() -> Iterator[Any]:
    """Every setting that is a number, of every command."""
    for kind in COMMANDS:
        for name, hint in hints_of(kind).items():
            allowed = {hint, *typing.get_args(hint)}
            counts = typing.get_origin(hint) is Mapping  # of channels, by pattern
            if allowed & {int, float} and bool not in allowed and not counts:
                yield pytest.param(kind, name, id=f"{kind.__name__}.{name}")


NUMBERS = list(found())


def made(kind: type, **given: Any) -> Any:
    return kind.of(**{**NEEDED.get(kind, {}), **given})


def setting(kind: type, name: str, value: Any) -> dict[str, Any]:
    """One setting, and what it needs besides."""
    several = "tuple" in str(hints_of(kind)[name])
    mode = {"mode": "uniform"} if name == "channel_ratio" else {}
    return {**mode, name: (value,) if several else value}


def check_line(refused: AmcError) -> None:
    line = str(refused)
    assert "\n" not in line and len(line) < 250


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_absurd_numbers_are_refused(kind: type, name: str) -> None:
    for value in ABSURD:
        with pytest.raises(AmcError) as refused:
            made(kind, **setting(kind, name, value))
        check_line(refused.value)


@settings(max_examples=25, deadline=None)
@given(value=st.one_of(st.floats(), st.integers(), st.integers(10**20, 10**30)))
@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_what_is_taken_is_a_finite_number_of_human_size(kind: type, name: str, value: Any) -> None:
    try:
        made(kind, **setting(kind, name, value))
    except AmcError as refused:
        check_line(refused)
    else:
        assert 0 <= value <= max(MOST, 2**32)


@pytest.mark.parametrize("kind", [TrainConfig, CompareConfig, LearnConfig, ParetoConfig])
def test_seeds_are_those_that_random_generators_take(kind: type) -> None:
    if kind is not CompareConfig:
        assert made(kind, seed=2**32 - 1).seed == 2**32 - 1
        with pytest.raises(AmcError, match="--seed must be 4294967295 or less, got 4294967296"):
            made(kind, seed=2**32)


def test_numbers_of_numpy_are_numbers() -> None:
    config = TrainConfig.of(seed=np.int64(3), episodes=np.int32(4), preserve_ratio=np.float32(0.5))
    assert config.seed == 3
    assert TrainConfig.of(learning_rate=1).training.learning_rate == 1


@given(text=st.text(max_size=30) | st.from_regex(r"\A\d{1,400}(\.\d{1,400})?(e\d+)?[KMGT]B\Z"))
@pytest.mark.parametrize("kind", [TrainConfig, LearnConfig])
def test_sizes(kind: type, text: str) -> None:
    try:
        assert 1 <= made(kind, memory=text).machine.memory_bytes <= 10**15
    except AmcError as refused:
        check_line(refused)


@pytest.mark.parametrize("text", ["1e300GB", "9" * 400 + "GB", "10000000000000000000000000GB"])
def test_absurd_sizes(text: str) -> None:
    with pytest.raises(AmcError) as refused:
        parse_bytes(text)
    check_line(refused.value)


@given(text=st.text("0123456789.,:e-naif ", max_size=40))
@pytest.mark.parametrize("kind", [LearnConfig, ParetoConfig])
def test_lists_and_ranges_of_ratios(kind: type, text: str) -> None:
    try:
        ratios = made(kind, preserve_ratio=text).ratios
    except AmcError as refused:
        check_line(refused)
    else:
        assert ratios == sorted(ratios) and all(0 < ratio <= 1 for ratio in ratios)


@given(query=st.text("size=croprkes&.0123456789e-", max_size=40))
def test_settings_of_a_folder_of_images(query: str) -> None:
    try:
        found = folder_settings(f"/images?{query}")
    except AmcError as refused:
        check_line(refused)
    else:
        assert 1 <= found.side <= 8192 and 0 < found.crop <= 1 and 0 <= found.workers <= 256


@pytest.mark.parametrize("channels", [10**25, math.nan, 2.5, "8", -1])
@pytest.mark.parametrize("name", ["min_channels", "max_channels"])
def test_bounds_of_layers(name: str, channels: Any) -> None:
    with pytest.raises(AmcError) as refused:
        Restrictions(**{name: {"stem": channels}})
    check_line(refused.value)


def test_a_number_of_thousands_of_digits_is_not_echoed() -> None:
    said = str(AmcError("--memory '" + "7" * 5000 + "GB': expected\na size"))
    assert said == "--memory '777777777777... (5000 digits)GB': expected a size"
    assert shown(-(10**6000)) == "about -1e6000"


@pytest.mark.parametrize("kind", COMMANDS)
def test_paths_may_be_text(kind: type) -> None:
    for name, hint in hints_of(kind).items():
        if Path in (hint, *typing.get_args(hint)):
            more = {
                "plan": {"mode": "plan"}, "strategy": {"mode": "list"},
                "ranking": {"allocator": "legr"}, "score_curves": {"allocator": "greedy"},
            }.get(name, {})  # fmt: skip
            more = more if kind is TrainConfig else {}
            if name == "latency_table":
                more = {"objective": "latency"}
            if (kind, name) == (ApplyConfig, "policy"):
                more = {"plan": None}
            assert made(kind, **{**more, name: "a/b"}).flat[name] == Path("a/b")
            with pytest.raises(AmcError, match="must be a path, got 3"):
                made(kind, **{**more, name: 3})


def test_plans_are_read_and_written_under_names(tmp_path: Path) -> None:
    plan = amc.Plan({}, ())
    amc.save_plan(str(tmp_path / "plan.json"), plan)
    assert amc.load_plan(str(tmp_path / "plan.json")) == plan
