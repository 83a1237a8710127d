"""What a recipe may ask for: averages, clipping, smoothing, features."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.training.distillation import Distillation, cross_entropy, supervised
from amc.training.recipe import Recipe, clip_by_filter_norm
from amc.training.trainer import train
from small_trainings import (
    Batches,
    separable,
    small,
    stream,
)


def test_average_is_the_discounted_mean_of_all_weights() -> None:
    seen: list[Tensor] = []
    model = small()

    def watch(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        seen.append(net[0].weight.detach().clone())  # before the step
        return cross_entropy(net, images, labels)

    found = train(model, stream(), Recipe(2, 0.1, ema=0.8), watch)
    last = train(small(), stream(), Recipe(2, 0.1))
    weights = [*seen[1:], last[0].weight.detach()]
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.8 * expected + 0.2 * weight
    torch.testing.assert_close(found[0].weight, expected)


def test_no_filter_moves_fast_for_its_length() -> None:
    """A step of rate 1 is the gradient: rows that were too long are shorter, others the same."""
    start = small()
    with torch.no_grad():
        start[0].weight[0] *= 100
        start[0].weight[1] = 0
    stream, part = Batches(separable()), 0.05
    free, clipped = (
        train(copy.deepcopy(start), stream, Recipe(1, 1.0, 0.0, 0.0, 0.0, clip=c))
        for c in (0.0, part)
    )
    shorter = 0
    for before, a, b in zip(*(m.parameters() for m in (start, free, clipped)), strict=True):
        step, less = (a - before).detach(), (b - before).detach()
        if before.ndim > 1:
            length = before.detach().flatten(1).norm(dim=1)
            most = part * length.clamp(min=0.1 * float(length.mean()))
            factor = (most / step.flatten(1).norm(dim=1).clamp(min=1e-20)).clamp(max=1)
            shorter += int((factor < 1).sum())
            step = step * factor.reshape(-1, *[1] * (step.ndim - 1))
        torch.testing.assert_close(less, step, rtol=1e-4, atol=1e-6)
    assert 0 < shorter < sum(len(p) for p in start.parameters() if p.ndim > 1)


def test_clipping_leaves_frozen_weights_and_bad_numbers_alone() -> None:
    frozen, bad = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    bad.grad = torch.tensor([[1.0, math.nan], [math.inf, 1.0]])
    clip_by_filter_norm([frozen, bad], 0.1)
    assert frozen.grad is None
    assert not bad.grad.isfinite().all(1).any()  # seen by the guard, not hidden


def test_smoothing_shares_out_labels() -> None:
    model, (x, y) = small().eval().requires_grad_(False), separable()
    scores = F.log_softmax(model(x), dim=1)
    target = 0.9 * F.one_hot(y, 2) + 0.05
    expected = -(target * scores).sum(1).mean()
    assert float(supervised(smoothing=0.1)(model, x, y)) == pytest.approx(
        float(expected), rel=1e-5
    )
    taught = Distillation(small(1), smoothing=0.1)(model, x, y)
    plain = Distillation(small(1))(model, x, y)
    gap = expected - F.cross_entropy(model(x), y)
    assert float(taught - plain) == pytest.approx(float(gap), rel=1e-4)


def test_features_are_compared_on_the_channels_that_are_left() -> None:
    teacher = small()
    kept = torch.tensor([1, 4, 6])
    narrow = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()
    for model in (teacher, narrow):
        model.requires_grad_(False)
    x, y = separable()
    plain = Distillation(teacher)(narrow, x, y)
    found = Distillation(teacher, features={"0": kept}, feature_weight=2.0)(narrow, x, y)
    reference, own = teacher[0](x)[:, kept], narrow[0](x)
    apart = ((own - reference) ** 2).sum() / (reference**2).sum()
    assert float(found - plain) == pytest.approx(2 * float(apart.detach()), rel=1e-4)
    same = Distillation(teacher, features={"0": torch.arange(8)}, feature_weight=2.0)
    assert float(same(teacher.eval(), x, y)) == pytest.approx(
        float(F.cross_entropy(teacher(x), y)), rel=1e-5
    )
    assert not any(m._forward_hooks for m in (*teacher.modules(), *narrow.modules()))
