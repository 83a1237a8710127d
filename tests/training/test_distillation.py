"""Distillation against its formulas."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.training.distillation import Distillation, cross_entropy
from amc.training.recipe import Recipe
from amc.training.trainer import train
from small_trainings import (
    assert_same_state,
    random,
    state,
)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 4.0), (1.0, 0.5), (2.5, 10.0)])
def test_distillation_is_cross_entropy_plus_weighted_divergence(
    temperature: float, weight: float
) -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(5, 4), nn.Linear(5, 4)
    x, labels = 3 * random(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 0, 1])
    zs, zt = (m(x).detach().double().numpy() for m in (student, teacher))
    hard = -log_softmax(zs)[np.arange(6), labels.numpy()].mean()
    p, q = log_softmax(zt / temperature), log_softmax(zs / temperature)
    divergence = temperature**2 * (np.exp(p) * (p - q)).sum(axis=1).mean()
    found = Distillation(teacher, temperature, weight)(student, x, labels)
    assert found.item() == pytest.approx(hard + weight * divergence, rel=1e-5)
    assert divergence > 1e-3


def test_distillation_weighs_twice_at_temperature_4_by_default() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(5, 4), nn.Linear(5, 4)
    x, labels = random(6, 5, seed=1), torch.zeros(6, dtype=torch.long)
    expected = Distillation(teacher, 4.0, 2.0)(student, x, labels)
    assert torch.equal(Distillation(teacher)(student, x, labels), expected)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1, 1, 1]), ("linear", [1, 0.75, 0.0]), ("cosine", [1, 0.853553, 0.0])],
)
def test_distillation_fades_as_told(schedule: str, expected: list[float]) -> None:
    fading = Distillation(nn.Linear(5, 4), weight=3.0, feature_weight=2.0, schedule=schedule)
    found = [fading.at(progress) for progress in (0.0, 0.25, 1.0)]
    assert [one.weight for one in found] == pytest.approx([3 * x for x in expected])
    assert [one.feature_weight for one in found] == pytest.approx([2 * x for x in expected])


def test_training_asks_the_teacher_less_and_less() -> None:
    torch.manual_seed(0)
    x, labels = random(8, 5, seed=1), torch.zeros(8, dtype=torch.long)
    asked: list[float] = []

    class Watched(Distillation):
        def __call__(self, *given: Any) -> Tensor:
            asked.append(self.weight)
            return super().__call__(*given)

    loss = Watched(nn.Linear(5, 4), schedule="linear")
    train(nn.Linear(5, 4), [(x, labels)] * 2, Recipe(2, 0.1), loss)
    assert asked == pytest.approx([2.0, 1.5, 1.0, 0.5])


def test_distillation_adds_nothing_when_student_and_teacher_agree() -> None:
    torch.manual_seed(0)
    teacher = nn.Linear(5, 4)
    student = copy.deepcopy(teacher)
    x, labels = random(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 0, 1])
    found = Distillation(teacher)(student, x, labels)
    expected = cross_entropy(student, x, labels).item()
    assert found.item() == pytest.approx(expected, abs=1e-6)
    found.backward()
    plain = copy.deepcopy(teacher)
    cross_entropy(plain, x, labels).backward()
    torch.testing.assert_close(student.weight.grad, plain.weight.grad)


def test_gradient_of_the_softened_term_pulls_to_the_teacher() -> None:
    """d/dz KL = (softmax(z/T) - softmax(t/T)) / (T B), by hand."""
    logits = random(3, 4, seed=0).requires_grad_()
    reference, labels = random(3, 4, seed=1), torch.zeros(3, dtype=torch.long)

    class Fixed(nn.Module):
        def __init__(self, out: Tensor) -> None:
            super().__init__()
            self.out = out

        def forward(self, x: Tensor) -> Tensor:
            return self.out

    Distillation(Fixed(reference), 2.0, 3.0)(Fixed(logits), logits, labels).backward()
    z = logits.detach()
    hard = (z.softmax(1) - F.one_hot(labels, 4)) / 3
    soft = ((z / 2).softmax(1) - (reference / 2).softmax(1)) / (2 * 3)
    torch.testing.assert_close(logits.grad, hard + 3 * 2**2 * soft)


def test_teacher_is_run_in_eval_mode_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4)).train()
    teacher[1].eval()
    student = nn.Linear(5, 4)
    before = state(teacher)
    x, labels = random(6, 5, seed=1), torch.zeros(6, dtype=torch.long)
    loss = Distillation(teacher)
    first = loss(student, x, labels)
    first.backward()
    assert torch.equal(first, loss(student, x, labels))  # no dropout in the teacher
    assert_same_state(teacher, before)
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert [m.training for m in teacher.modules()] == [True, True, False, True]
    assert all(p.grad is not None for p in student.parameters())
