"""One layer with zeros: the error against all masks there are, and against magnitude's."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from amc.calibration.columns import as_columns
from amc.calibration.statistics import LayerStats
from amc.graph.groups import Layer
from amc.sparsity.magnitude import magnitude
from amc.sparsity.masked_least_squares import Regression
from amc.sparsity.obs import saliencies, solve
from amc.sparsity.patterns import SINGLE, Layout, Pattern
from amc.sparsity.select import chosen


def layer(weight: Tensor, groups: int = 1) -> Layer:
    inputs, kind = weight.shape[1] * groups, "linear" if weight.ndim == 2 else "conv2d"
    return Layer(
        "a", "a.weight", None, kind, 1, 0, inputs, weight.shape[0], 0, 0, 1, 0, 0, 1, 1, groups, ""
    )  # fmt: skip


def problem(*shape: int, groups: int = 1, seed: int = 0) -> tuple[LayerStats, Tensor]:
    """Statistics of correlated inputs, and the weights that gave the outputs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    weight = draw(*shape)
    columns = as_columns(weight, layer(weight, groups))
    inputs = columns.shape[1]
    x = draw(groups, 50 * inputs, inputs) @ draw(inputs, inputs)
    y = x @ columns
    return LayerStats(x.mT @ x, x.mT @ y, y.square().sum(1), x.shape[1]), weight


def error(stats: LayerStats, weight: Tensor, mask: Tensor, groups: int = 1) -> float:
    """What is left of the outputs where all weights under a mask are solved for."""
    asked = layer(weight, groups)
    regression = Regression(stats, as_columns(weight, asked), float(mask.double().mean()))
    solved = regression.solved(as_columns(mask, asked) > 0, regression.whole)
    return regression.error(solved)


@pytest.mark.parametrize("stays", [2, 4, 6])
def test_error_is_near_that_of_the_best_mask_there_is(stays: int) -> None:
    found, best, largest = 0.0, 0.0, 0.0
    for seed in range(8):
        stats, weight = problem(2, 4, seed=seed)
        masks = torch.zeros(8, dtype=torch.bool).repeat(200, 1)
        every = list(combinations(range(8), stays))
        for row, keep in zip(masks, every, strict=False):
            row[list(keep)] = True
        errors = [error(stats, weight, row.view(2, 4)) for row in masks[: len(every)]]
        found += solve(stats, layer(weight), weight, 1 - stays / 8).error
        best += min(errors)
        largest += error(stats, weight, chosen({"": magnitude(weight)}, 1 - stays / 8)[""])
    assert best <= found + 1e-9
    assert found - best <= 0.8 * (largest - best)


def test_independent_inputs_have_the_best_mask() -> None:
    stats, weight = problem(5, 12)
    scale = torch.arange(1, 13, dtype=torch.float64)
    xx = torch.diag(scale)[None]
    xy = xx @ weight.mT
    stats = LayerStats(xx, xy, (weight.square() * scale).sum(1)[None], 1_000_000)
    solution = solve(stats, layer(weight), weight, 0.6)
    expected = chosen({"": weight.square() * scale}, 0.6)[""]
    assert torch.equal(solution.mask, expected)
    left = (weight.square() * scale)[~expected].sum() / (weight.square() * scale).sum()
    assert solution.error == pytest.approx(float(left), rel=1e-4)


@pytest.mark.parametrize("block", ["", "1x4", "2x2", "row", "column", "2:4", "1:4"])
@pytest.mark.parametrize("groups", [1, 2])
def test_error_is_never_above_that_of_the_largest_weights(block: str, groups: int) -> None:
    pattern = Pattern.parse(block)
    stats, weight = problem(8, 8, 3, 1, groups=groups)
    level = pattern.level or 0.5
    solution = solve(stats, layer(weight, groups), weight, level, pattern)
    layouts = {"": Layout.of(layer(weight, groups))}
    largest = chosen({"": magnitude(weight)}, level, pattern, layouts=layouts)[""]
    assert solution.mask.sum() == largest.sum()
    assert (solution.weight[~solution.mask] == 0).all()
    assert solution.error <= error(stats, weight, largest, groups) + 1e-12
    assert solution.error == pytest.approx(error(stats, weight, solution.mask, groups), rel=1e-4)


def test_two_of_four_inputs_stay_side_by_side() -> None:
    stats, weight = problem(6, 8, 3, 1)
    mask = solve(stats, layer(weight), weight, 0.5, Pattern.parse("2:4")).mask
    assert (mask.reshape(6, 2, 4, 3).sum(2) == 2).all()


@pytest.mark.parametrize("level", [0, 1 / 96, 0.37, 0.9, 95 / 96])
def test_level_is_exact_to_one_weight(level: float) -> None:
    stats, weight = problem(4, 24)
    solution = solve(stats, layer(weight), weight.float(), level)
    assert int((~solution.mask).sum()) == round(96 * level)
    assert int((solution.weight == 0).sum()) == round(96 * level)
    assert solution.weight.dtype == torch.float32


def test_saliency_is_the_error_that_a_weight_adds_when_it_goes() -> None:
    stats, weight = problem(3, 6)
    worth = saliencies(stats, layer(weight), weight)
    for o, i in [(0, 0), (1, 4), (2, 5)]:
        mask = torch.ones(3, 6, dtype=torch.bool)
        mask[o, i] = False
        assert float(worth[o, i]) == pytest.approx(error(stats, weight, mask), rel=1e-2)
    single = solve(stats, layer(weight), weight, 1 / 18, SINGLE).mask
    assert (~single).flatten().nonzero().item() == int(worth.argmin())
