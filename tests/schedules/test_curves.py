"""Curves against their formulas, the vectors of the originals, and any parameters."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc.runtime import names
from amc.runtime.errors import AmcError
from amc.schedules.curves import SCHEDULES, biased_rate, densities, load_schedule

BEGINNING = ("linear", "agp", "exponential", "exponential-bias", "polynomial")
"""Schedules that may begin at another density than 1."""


def levels(name: str, final: float, steps: int, **given: float | bool) -> list[float]:
    """Parts that are gone after each step, as NNCF counts them: T = steps - 1."""
    curve = densities(partial(SCHEDULES[name], **given), 1 - final, steps, from_start=True)
    return [1 - density for density in curve]


def test_table_is_what_the_command_line_knows() -> None:
    assert {*SCHEDULES, "adaptive"} == set(names.SCHEDULES)


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    final=st.floats(0.01, 1),
    start=st.floats(0.02, 1),
    steps=st.integers(1, 60),
    power=st.floats(0.1, 5),
    convex=st.booleans(),
)
def test_every_curve_falls_to_its_end(
    name: str, final: float, start: float, steps: int, power: float, convex: bool
) -> None:
    given: dict[str, float | bool] = {"start": start} if name in BEGINNING else {}
    if name == "polynomial":
        given |= {"power": power, "convex": convex}
    curve = partial(SCHEDULES[name], **given)
    for from_start in (False, True) if given else (False,):
        found = densities(curve, final, steps, from_start)
        assert len(found) == steps and found[-1] == final
        assert all(a >= b - 1e-12 for a, b in pairwise([1.0, *found]))
        assert all(density >= final - 1e-12 for density in found)
        if given:
            assert max(found) <= max(start, final) + 1e-12
    assert curve(final, 1.0) == pytest.approx(final, abs=1e-12)


def test_curves_are_those_of_their_papers() -> None:
    p = np.arange(1, 9) / 8
    assert densities(SCHEDULES["linear"], 0.2, 8) == pytest.approx(1 - 0.8 * p)
    assert densities(SCHEDULES["agp"], 0.2, 8) == pytest.approx(0.2 + 0.8 * (1 - p) ** 3)
    assert densities(SCHEDULES["exponential"], 0.2, 8) == pytest.approx(0.2**p)


def test_exponential_is_that_of_nncf() -> None:
    """From 0.1 to 0.4 in 15 steps (pruning_init, pruning_target, pruning_steps)."""
    found = levels("exponential", 0.4, 15, start=0.9)
    assert len(found) == 15
    assert found[0] == pytest.approx(0.1)
    assert (
        found[7] == pytest.approx(1 - 0.9 * (0.6 / 0.9) ** 0.5) == pytest.approx(0.26515, abs=1e-5)
    )
    assert found[14] == pytest.approx(0.4)
    assert levels("exponential", 0.4, 1, start=0.9) == pytest.approx([0.4])  # T = 0: at once


def test_biased_exponential_is_that_of_nncf() -> None:
    """From 0 to 0.5, T = 16: P(2) = 0.375, P(16) = 0.5."""
    found = levels("exponential-bias", 0.5, 17)
    assert found[0] == 0
    assert found[2] == pytest.approx(0.375)
    assert found[16] == 0.5


@pytest.mark.parametrize("steps", [8, 49, 100, 800])
def test_biased_exponential_has_made_three_quarters_after_an_eighth(steps: int) -> None:
    """Where the original's solver stays at its start, T = 49 and 99, too."""
    cut = 1 - np.array([1.0, *densities(SCHEDULES["exponential-bias"], 0.5, steps)])
    assert np.interp(1 / 8, np.arange(steps + 1) / steps, cut) == pytest.approx(0.375, abs=0.003)
    rates = -np.diff(np.log(np.diff(cut)))  # a exp(-k x): constant ratios
    assert rates == pytest.approx(np.full(len(rates), rates[0]), rel=1e-6)


@given(level=st.floats(0.01, 0.99), part=st.floats(0, 0.7))
def test_biased_exponential_solves_its_equations(level: float, part: float) -> None:
    """P(0) = p_min, P(T / 8) = 0.75 p_max, P(T) = p_max, below p_min = 5/7 p_max."""
    curve = partial(SCHEDULES["exponential-bias"], start=1 - part * level)
    assert biased_rate(1 - level, 1 - part * level) is not None
    for progress, wanted in ((0, part * level), (1 / 8, 0.75 * level), (1, level)):
        assert 1 - curve(1 - level, progress) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("initial", [5 / 7 * 0.5, 0.36, 0.375, 0.45, 0.5, 0.9])
def test_biased_exponential_without_a_solution_is_the_exponential(initial: float) -> None:
    start = 1 - initial
    assert biased_rate(0.5, start) is None
    for progress in (0.1, 0.5, 1.0):
        found = SCHEDULES["exponential-bias"](0.5, progress, start=start)
        assert found == SCHEDULES["exponential"](0.5, progress, start=start)


def test_polynomial_is_that_of_nncf() -> None:
    """Concave, 0 to 0.5, T = 90, power 0.9, after 45."""
    assert levels("polynomial", 0.5, 91)[45] == pytest.approx(0.23206, abs=1e-5)
    convex = levels("polynomial", 0.6, 11, start=0.9, power=2.0, convex=True)
    assert convex[5] == pytest.approx(0.1 + 0.5 * 0.5**2)


@pytest.mark.parametrize("parts", [(0.5,), (0.25, 0.5), (0.1, 0.2, 0.7, 0.9), (0.3,) * 9])
def test_multistep_makes_the_given_parts_of_the_cut(parts: tuple[float, ...]) -> None:
    curve = partial(SCHEDULES["multistep"], parts=parts)
    found = densities(curve, 0.2, len(parts) + 1)
    assert found == pytest.approx([*(1 - 0.8 * part for part in parts), 0.2])


OWN = """
def stairs(final, progress):
    return 1 - (1 - final) * (0.5 if progress < 0.5 else 1)
def rises(final, progress):
    return 1 - (1 - final) * (1 if progress in (0.25, 1) else 0.5)
def early(final, progress):
    return 1 - (1 - final) * progress / 2
def below(final, progress):
    return final / 2
def nan(final, progress):
    return float("nan")
def single(final, progress):
    import numpy
    return numpy.float32(1 - (1 - final) * progress)
def word(final, progress):
    return "half"
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN)
    return path


def test_own_schedule(own: Path) -> None:
    assert densities(load_schedule(f"{own}:stairs", 4), 0.5, 4) == [0.75, 0.5, 0.5, 0.5]
    assert densities(load_schedule(f"{own}:single", 2), 0.1, 2) == pytest.approx([0.55, 0.1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rises", "rises from 0.1 to 0.55 in step 2 of 4 for final density 0.1"),
        ("early", "ends at 0.55 for final density 0.1"),
        ("below", "gave 0.05 for final density 0.1 and progress 0.25; allowed is 0.1 to 1"),
        ("nan", "gave nan"),
        ("word", "ValueError: could not convert string"),
        ("absent", "has nothing called absent"),
    ],
)
def test_what_is_no_schedule_is_refused_before_anything_runs(
    own: Path, name: str, message: str
) -> None:
    with pytest.raises(AmcError, match=message) as refused:
        load_schedule(f"{own}:{name}", 4)
    assert "\n" not in str(refused.value)
