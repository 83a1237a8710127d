"""Weights under a mask against a least squares of its own for every output."""

import numpy as np
import torch
from torch import Tensor

from amc.calibration.statistics import LayerStats
from amc.sparsity.masked_least_squares import Regression


def statistics(x: Tensor, y: Tensor) -> LayerStats:
    """Of inputs [G, R, D] and outputs [G, R, N]."""
    return LayerStats(x.mT @ x, x.mT @ y, y.square().sum(1), x.shape[1])


def drawn(groups: int, rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Correlated inputs, noisy outputs, and the weights behind them."""
    generator = torch.Generator().manual_seed(0)
    draw = [(groups, rows, inputs), (inputs, inputs), (groups, inputs, outputs)]
    x, mix, weights = (torch.randn(s, generator=generator, dtype=torch.float64) for s in draw)
    x = x @ mix
    noise = torch.randn(groups, rows, outputs, generator=generator, dtype=torch.float64)
    return x, x @ weights + noise, weights


def test_every_output_is_solved_on_its_own_inputs() -> None:
    x, y, start = drawn(3, 4000, 12, 5)
    mask = torch.rand(3, 12, 5, generator=torch.Generator().manual_seed(1)) > 0.5
    problem = Regression(statistics(x, y), start, 0.5)
    found = problem.solved(mask, problem.whole)
    left = 0.0
    for g in range(3):
        for n in range(5):
            inputs = mask[g, :, n]
            expected, *_ = np.linalg.lstsq(x[g][:, inputs].numpy(), y[g, :, n].numpy(), rcond=None)
            np.testing.assert_allclose(found[g, inputs, n].numpy(), expected, rtol=1e-2, atol=2e-3)
            left += float(
                (y[g, :, n] - x[g][:, inputs] @ torch.from_numpy(expected)).square().sum()
            )
    assert (found[~mask] == 0).all()
    np.testing.assert_allclose(problem.error(found), left / float(y.square().sum()), rtol=1e-4)


def test_dead_inputs_and_outputs_keep_what_they_had() -> None:
    x, y, start = drawn(1, 4000, 6, 3)
    x[:, :, 2] = 0
    problem = Regression(statistics(x, y), start)
    found = problem.solved(torch.ones(1, 6, 3, dtype=torch.bool), start)
    torch.testing.assert_close(found[:, 2], start[:, 2])
    silent = Regression(statistics(0 * x, 0 * y), start)
    assert silent.error(start) == 0
    torch.testing.assert_close(silent.whole, start)
