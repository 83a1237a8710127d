"""Least squares without X'X, against the solution with it."""

import pytest
import torch
from torch import Tensor

from amc.calibration.descent import descend
from amc.calibration.least_squares import error, solve
from amc.calibration.rows import Rows
from amc.calibration.statistics import LayerStats, accumulated
from strict_device import reachable


def problem(columns: int, rows: int, groups: int) -> tuple[Tensor, Tensor, Tensor, LayerStats]:
    """Correlated inputs, outputs with noise, and weights that are half of the true ones."""
    g = torch.Generator().manual_seed(columns)
    mix = torch.randn(columns, columns, generator=g) * torch.logspace(0, -2, columns)[:, None]
    x = torch.randn(groups, rows, columns, generator=g) @ mix
    true = torch.randn(groups, columns, 5, generator=g)
    y = x @ true
    y = y + 0.3 * y.std() * torch.randn(y.shape, generator=g)
    nothing = torch.empty(0)
    return x, y, true / 2, accumulated([Rows(x, nothing)], [Rows(nothing, y)])


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("columns", "rows"), [(30, 300), (100, 150), (150, 100)])
def test_it_ends_at_the_exact_solution(columns: int, rows: int, groups: int) -> None:
    x, y, start, stats = problem(columns, rows, groups)
    every = torch.arange(columns)
    exact = error(stats, every, solve(stats, every, start)) / stats.energy
    before = error(stats, every, start) / stats.energy
    parts = [(x[:, :40], y[:, :40]), (x[:, 40:], y[:, 40:])]
    found = descend(parts, start)
    assert found.dtype == start.dtype and found.shape == start.shape
    after = error(stats, every, found) / stats.energy
    assert abs(after - exact) < 1e-3 * (before - exact)


def test_what_is_solved_already_and_what_nothing_is_known_of_stay() -> None:
    x, _, start, _ = problem(20, 60, 1)
    torch.testing.assert_close(descend([(x, x @ start)], start), start, rtol=1e-4, atol=1e-4)
    x[:, :, 3] = 0  # a dead input: its weights stay
    found = descend([(x, torch.ones(1, 60, 5))], start)
    assert torch.equal(found[:, 3], start[:, 3])
    nothing = descend([(torch.zeros(1, 9, 20), torch.zeros(1, 9, 5))], start)
    assert torch.equal(nothing, start)


def test_it_goes_where_the_rows_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, start, _ = problem(20, 60, 2)
    here = descend([(x, y)], start)
    with reachable(monkeypatch):
        there = descend([(x.to("lazy"), y.to("lazy"))], start.to("lazy"))
        assert there.cpu().equal(here)
