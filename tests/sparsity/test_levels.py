"""Schedules of levels: NNCF's numbers, and such as are counted by hand."""

import pytest

from amc.config.sections.sparsity import SparsityConfig
from amc.sparsity.levels import Adaptive, Levels


def test_polynomial_has_nncfs_numbers() -> None:
    concave = Levels("polynomial", 0.5, reaches=90)  # power 0.9
    assert concave.at(45) == pytest.approx(0.23206, abs=5e-6)
    assert concave.at(0) == 0 and concave.at(90) == concave.at(1000) == 0.5
    cubic = Levels("polynomial", 0.8, 0.2, reaches=4, power=3)
    assert [cubic.at(e) for e in range(5)] == pytest.approx(
        [0.2, 0.8 - 0.6 * 27 / 64, 0.8 - 0.6 / 8, 0.8 - 0.6 / 64, 0.8]
    )
    convex = Levels("polynomial", 0.8, 0.2, reaches=4, power=2, convex=True)
    assert [convex.at(e) for e in range(5)] == pytest.approx(
        [0.2, 0.2 + 0.6 / 16, 0.2 + 0.6 / 4, 0.2 + 0.6 * 9 / 16, 0.8]
    )


def test_exponential_halves_the_density() -> None:
    """1 -> 1/8 in three epochs."""
    levels = Levels("exponential", 0.875, reaches=3)
    assert [levels.at(e) for e in range(5)] == pytest.approx([0, 0.5, 0.75, 0.875, 0.875])
    later = Levels("exponential", 0.875, 0.5, reaches=2)
    assert [later.at(e) for e in range(3)] == pytest.approx([0.5, 0.75, 0.875])


def test_within_an_epoch_the_level_rises_only_per_step() -> None:
    whole = Levels("polynomial", 0.5, reaches=2, power=1)
    fine = Levels("polynomial", 0.5, reaches=2, power=1, per_step=True)
    assert [whole.at(e / 4) for e in range(9)] == [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0.5]
    assert [fine.at(e / 4) for e in range(9)] == pytest.approx([e / 16 for e in range(9)])
    assert Levels("exponential", 0.5, reaches=0).at(0) == 0.5


def test_multistep_is_piecewise_constant() -> None:
    levels = Levels("multistep", 0.5, steps=(2, 5), levels=(0.1, 0.3, 0.5))
    assert [levels.at(e) for e in range(7)] == [0.1, 0.1, 0.3, 0.3, 0.3, 0.5, 0.5]
    assert levels.at(1.9) == 0.1
    nncf = Levels("multistep", 0.5, steps=(90,), levels=(0.1, 0.5))
    assert nncf.at(89) == 0.1 and nncf.at(90) == 0.5
    assert Levels("one-shot", 0.7).at(0) == 0.7


def test_adaptive_waits_until_a_level_is_reached() -> None:
    """As NNCF counts: an epoch whose level was reached, as far as 0.03, is one of the patience."""
    adaptive = Adaptive(Levels("adaptive", 0.12, patience=2))
    achieved = [0.0, 0.0, 0.05, 0.01, 0.03, 0.1, 0.1, 0.12]
    assert [adaptive.next_epoch(one) for one in achieved] == pytest.approx(
        [0, 0.05, 0.05, 0.05, 0.1, 0.1, 0.12, 0.12]
    )


def test_adaptive_has_the_target_in_the_epoch_that_the_settings_say() -> None:
    for initial, patience in ((0.0, 1), (0.1, 1), (0.0, 3), (0.2, 2), (0.3, 1)):
        config = SparsityConfig(
            sparsity=0.3, sparsity_init=initial, sparsity_patience=patience,
            sparsity_schedule="adaptive",
        )  # fmt: skip
        adaptive = Adaptive(Levels("adaptive", 0.3, initial, patience=patience))
        level, epoch = initial, 0
        while (level := adaptive.next_epoch(level)) < 0.3:
            epoch += 1
        assert config.epochs_for("adaptive", 99)[0] == epoch
