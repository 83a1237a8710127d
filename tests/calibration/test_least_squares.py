"""Least squares on statistics against `numpy.linalg.lstsq` on the rows themselves."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.calibration import least_squares
from amc.calibration.columns import as_columns, input_columns
from amc.calibration.least_squares import RIDGE, error, solve
from amc.calibration.statistics import LayerStats, Recorder, Sampling, collect
from amc.graph.groups import Layer

pytestmark = pytest.mark.usefixtures("exact")


class One(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def layer_of(module: nn.Conv2d | nn.Linear) -> Layer:
    groups = getattr(module, "groups", 1)
    return Layer(
        "layer", "layer.weight", None, "", 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, groups, ""
    )  # fmt: skip


def moments(x: Tensor, y: Tensor) -> LayerStats:
    """Statistics of rows [G, R, D] and [G, R, N]."""
    return LayerStats(x.mT @ x, x.mT @ y, y.square().sum(dim=1), x.shape[1])


def lstsq(x: Tensor, y: Tensor) -> np.ndarray:
    """The minimum-norm solution per group, [G, D, N]."""
    return np.stack(
        [np.linalg.lstsq(a.numpy(), b.numpy(), rcond=None)[0] for a, b in zip(x, y, strict=True)]
    )


def residual(x: Tensor, y: Tensor, weights: Tensor | np.ndarray) -> float:
    return float((y - x @ torch.as_tensor(weights)).square().sum())


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "3x3": dict(kernel_size=3, padding=1, bias=False),
    "bias": dict(kernel_size=3),
    "stride": dict(kernel_size=3, stride=2, padding=1),
    "dilation": dict(kernel_size=3, dilation=2, padding=2),
    "1x1 stride": dict(kernel_size=1, stride=2),
    "asymmetric": dict(kernel_size=(1, 3), stride=(1, 2), padding=(0, 1)),
    "grouped": dict(kernel_size=3, groups=2, padding=1),
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution_without_some_inputs_is_fitted_as_by_lstsq(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(8, 6, **options)
    model, layer = One(module), layer_of(module)
    x = torch.randn(12, 8, 10, 10)
    batches = [(part, torch.zeros(len(part))) for part in x.split(5)]
    stats = collect(model, [layer], batches, Sampling(0))["layer"]
    rows = Recorder(model, [layer], Sampling(0)).run(x, 0)["layer"][0]
    kept_inputs = torch.tensor([0, 2, 3])  # of each group's inputs
    keep = input_columns(kept_inputs, module.weight).flatten()
    given, wanted = rows.x.double()[..., keep], rows.y.detach().double()
    start = as_columns(module.weight, layer)[:, keep]

    found = solve(stats, keep, start)

    np.testing.assert_allclose(found, lstsq(given, wanted), rtol=1e-4, atol=1e-5)
    assert error(stats, keep, found) == pytest.approx(residual(given, wanted, found), rel=1e-6)
    assert residual(given, wanted, found) < residual(given, wanted, start)


@pytest.mark.parametrize("shape", [(200, 10), (40, 5, 10)])
def test_linear_layer_without_some_inputs_is_fitted_as_by_lstsq(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = nn.Linear(10, 4)
    model, x = One(module), torch.randn(*shape)
    x[..., 7] += x[..., 1]  # something for the kept ones to take over
    stats = collect(model, [layer_of(module)], [(x, x)], Sampling(0))["layer"]
    keep = torch.tensor([0, 1, 4, 5, 9])
    rows = x.reshape(1, -1, 10).double()
    wanted = rows @ module.weight.detach().double().T
    found = solve(stats, keep, as_columns(module.weight, layer_of(module))[:, keep])
    np.testing.assert_allclose(found, lstsq(rows[..., keep], wanted), rtol=1e-4, atol=1e-5)


def test_solution_is_the_minimum_of_the_ridge_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient X'(XW - Y) + r (W - W0) vanishes, r = ridge x mean diagonal of X'X."""
    monkeypatch.setattr(least_squares, "SCARCE", 0.5)
    x, y, start = random(2, 50, 7, seed=0), random(2, 50, 3, seed=1), random(2, 7, 3, seed=2)
    keep = torch.tensor([0, 1, 3, 6])
    found = solve(moments(x, y), keep, start[:, keep])
    kept = x[..., keep]
    r = (RIDGE + 0.5 * 4 / 50) * kept.square().sum(dim=1).mean(dim=1)[:, None, None]
    gradient = kept.mT @ (kept @ found - y) + r * (found - start[:, keep])
    assert gradient.abs().max() < 1e-10


def test_weights_that_fit_already_are_kept() -> None:
    x, w = random(1, 40, 6, seed=0), random(1, 6, 3, seed=1)
    found = solve(moments(x, x @ w), torch.arange(6), w)
    torch.testing.assert_close(found, w, rtol=1e-9, atol=1e-9)


def test_dead_columns_keep_their_weights_and_the_rest_is_fitted() -> None:
    x, y, start = random(1, 60, 8, seed=0), random(1, 60, 3, seed=1), random(1, 8, 3, seed=2)
    x[..., [2, 5]] = 0
    found = solve(moments(x, y), torch.arange(8), start)
    torch.testing.assert_close(found[:, [2, 5]], start[:, [2, 5]])
    assert residual(x, y, found) == pytest.approx(residual(x, y, lstsq(x, y)), rel=1e-9)


def test_duplicate_columns_share_the_fit() -> None:
    x, y = random(1, 60, 8, seed=0), random(1, 60, 3, seed=1)
    x[..., 5] = x[..., 2]
    x[..., 6] = -3 * x[..., 2]
    start = random(1, 8, 3, seed=2)
    found = solve(moments(x, y), torch.arange(8), start)
    assert found.isfinite().all()
    assert found.abs().max() < 10 * max(float(start.abs().max()), 1)
    assert residual(x, y, found) == pytest.approx(residual(x, y, lstsq(x, y)), rel=1e-9)


def test_layer_of_dead_inputs_only_keeps_its_weights() -> None:
    x, y, start = torch.zeros(2, 30, 4).double(), random(2, 30, 3, seed=1), random(2, 4, 3, seed=2)
    torch.testing.assert_close(solve(moments(x, y), torch.arange(4), start), start)


def test_one_dead_group_leaves_the_other_group_alone() -> None:
    x, y, start = random(2, 60, 4, seed=0), random(2, 60, 3, seed=1), random(2, 4, 3, seed=2)
    x[1] = 0
    found = solve(moments(x, y), torch.arange(4), start)
    np.testing.assert_allclose(found[0], lstsq(x[:1], y[:1])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], start[1])


@pytest.mark.parametrize("rows", [1, 5, 19])
def test_fewer_rows_than_columns_are_met_exactly_and_close_to_the_start(rows: int) -> None:
    x, y, start = random(1, rows, 20, seed=0), random(1, rows, 3, seed=1), random(1, 20, 3, seed=2)
    found = solve(moments(x, y), torch.arange(20), start)
    energy = float(y.square().sum())
    assert residual(x, y, found) < 1e-6 * energy
    # what the rows say nothing about stays as it was: the change lies in the row space of X
    change = (found - start)[0]
    basis = torch.linalg.svd(x[0], full_matrices=True).Vh[rows:]
    assert (basis @ change).abs().max() < 1e-6


def test_badly_conditioned_columns_give_the_residual_of_lstsq() -> None:
    x, y = random(1, 100, 6, seed=0), random(1, 100, 2, seed=1)
    x[..., 4] = x[..., 3] + 1e-9 * x[..., 4]
    x[..., 5] *= 1e4
    start = torch.zeros(1, 6, 2).double()
    found = solve(moments(x, y), torch.arange(6), start)
    # one direction is beyond the ridge's resolution: compare with the columns that are not
    best = residual(x[..., [0, 1, 2, 3, 5]], y, lstsq(x[..., [0, 1, 2, 3, 5]], y))
    assert found.isfinite().all()
    assert residual(x, y, found) <= best * 1.05


def test_default_ridge_costs_next_to_nothing() -> None:
    x, y = random(1, 100, 6, seed=0), random(1, 100, 2, seed=1)
    best = residual(x, y, lstsq(x, y))
    found = solve(moments(x, y), torch.arange(6), torch.zeros(1, 6, 2))
    assert best <= residual(x, y, found) < best * (1 + RIDGE)


@pytest.mark.parametrize("rows", [60, 80, 120])
def test_few_rows_are_not_believed_to_the_letter(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Correlated inputs, targets with noise: other rows are met better than by lstsq."""
    mixing, w = random(1, 60, 60, seed=0), 0.1 * random(1, 60, 3, seed=1)
    mixing *= torch.logspace(0, -3, 60).double()[:, None]  # most of the variance in few directions
    x, others = (random(1, count, 60, seed=count) @ mixing for count in (rows, 4000))
    y = x @ w + 0.3 * random(1, rows, 3, seed=3)
    start = torch.zeros(1, 60, 3)
    exact = solve(moments(x, y), torch.arange(60), start)
    monkeypatch.undo()
    found = solve(moments(x, y), torch.arange(60), start)
    assert residual(others, others @ w, found) < 0.7 * residual(others, others @ w, exact)
    assert found.norm() < exact.norm() / 10


def test_error_of_any_weights_is_the_explicit_residual() -> None:
    x, y, w = random(3, 50, 7, seed=0), random(3, 50, 4, seed=1), random(3, 7, 4, seed=2)
    stats = moments(x, y)
    for keep in ([0, 1, 2, 3, 4, 5, 6], [1, 4], [6]):
        index = torch.tensor(keep)
        expected = residual(x[..., index], y, w[:, index])
        assert error(stats, index, w[:, index]) == pytest.approx(expected, rel=1e-12)
    nothing = torch.zeros(0, dtype=torch.long)
    assert error(stats, nothing, w[:, nothing]) == pytest.approx(float(y.square().sum()))
    assert stats.energy == pytest.approx(float(y.square().sum()))


def test_more_inputs_never_fit_worse() -> None:
    x, y = random(1, 80, 10, seed=0), random(1, 80, 3, seed=1)
    stats, start = moments(x, y), torch.zeros(1, 10, 3)
    errors = []
    for count in range(1, 11):
        keep = torch.arange(count)
        errors.append(error(stats, keep, solve(stats, keep, start[:, keep])))
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(errors))
    assert errors[-1] == pytest.approx(residual(x, y, lstsq(x, y)), rel=1e-6)
