"""Ratios by other names come back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc.config.formats.conversions import (
    compression_ratio_of_preserve_ratio,
    preserve_ratio_of_compression_ratio,
    preserve_ratio_of_pruning_level,
    pruning_level_of_preserve_ratio,
)


def test_both_meanings_of_a_ratio() -> None:
    assert preserve_ratio_of_pruning_level(0.9) == 0.1
    assert pruning_level_of_preserve_ratio(0.1) == 0.9
    assert preserve_ratio_of_compression_ratio(2.0) == 0.5
    assert compression_ratio_of_preserve_ratio(0.25) == 4.0


@given(st.floats(0, 0.999))
def test_levels_come_back(level: float) -> None:
    ratio = preserve_ratio_of_pruning_level(level)
    assert ratio == pytest.approx(1 - level, abs=1e-12)
    assert preserve_ratio_of_pruning_level(pruning_level_of_preserve_ratio(ratio)) == ratio


@given(st.floats(1.001, 1000))
def test_compression_ratios_come_back(times: float) -> None:
    ratio = preserve_ratio_of_compression_ratio(times)
    assert ratio == pytest.approx(1 / times, abs=1e-12)
    again = compression_ratio_of_preserve_ratio(ratio)
    assert preserve_ratio_of_compression_ratio(again) == ratio
