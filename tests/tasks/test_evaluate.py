"""Scores of a network over a stream, and modes that come back."""

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import logsumexp
from torch import Tensor, nn

from amc.tasks.batches import head
from amc.tasks.evaluate import TEMPERATURE, Score, evaluate, evaluating, reference_outputs
from small_trainings import (
    Batch,
    assert_same_state,
    random,
    state,
)


def test_score_is_accuracy_and_mean_cross_entropy_over_all_images() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), random(10, 4, seed=1), torch.arange(10) % 3
    logits = (x @ model.weight.T + model.bias).detach().numpy().astype(np.float64)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    losses = log_sum - logits[np.arange(10), y.numpy()]
    right = (logits.argmax(axis=1) == y.numpy()).mean()
    found = evaluate(model, [(x[:7], y[:7]), (x[7:], y[7:])])
    assert found.images == 10
    assert found.accuracy == pytest.approx(right)
    assert found.loss == pytest.approx(losses.mean(), rel=1e-6)
    assert evaluate(model, []) == Score(0.0, 0.0, 0)


def said_by(model: nn.Module, x: Tensor) -> np.ndarray:
    """Logarithms of the softened predictions."""
    logits = model(x).detach().double().numpy() / TEMPERATURE
    return logits - logsumexp(logits, axis=1, keepdims=True)


def test_divergence_is_that_of_the_softened_predictions_from_those_of_another_network() -> None:
    """The formula of Kullback and Leibler, whatever the labels and the sizes of the batches."""
    torch.manual_seed(0)
    one, other, x = nn.Linear(4, 5), nn.Linear(4, 5), 20 * random(12, 4, seed=1)
    reference, found = said_by(other, x), said_by(one, x)
    expected = (np.exp(reference) * (reference - found)).sum(axis=1).mean()
    turned = (np.exp(found) * (found - reference)).sum(axis=1).mean()
    assert expected != pytest.approx(turned, rel=0.05)
    plain = evaluate(one, [(x, torch.zeros(12).long())])
    assert plain.divergence is None
    for sizes in ([12], [1, 11], [5, 4, 3], [1] * 12):
        batches = [(part, torch.zeros(len(part)).long()) for part in x.split(sizes)]
        score = evaluate(one, batches, reference=reference_outputs(other, batches))
        assert score.divergence == pytest.approx(expected, rel=1e-5)
        assert (score.accuracy, score.images) == (plain.accuracy, plain.images)
        assert score.loss == pytest.approx(plain.loss, rel=1e-6)
        assert evaluate(one, batches, reference=reference_outputs(one, batches)).divergence == 0.0


def test_softened_predictions_are_those_in_eval_mode_and_need_no_labels() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    model[0].running_mean.fill_(0.5)
    model[1].eval()
    before, x = state(model), random(8, 3, seed=0)
    batches = [(part, torch.full((), math.nan)) for part in x.split([5, 3])]
    found = reference_outputs(model, batches)
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert_same_state(model, before)
    assert [len(part) for part in found] == [5, 3]
    expected = said_by(copy.deepcopy(model).eval(), x)
    np.testing.assert_allclose(torch.cat(found), expected, rtol=1e-5, atol=1e-6)
    assert not any(part.requires_grad for part in found)


def test_divergence_tells_networks_apart_that_are_as_good_as_certain_of_the_same_class() -> None:
    """Thirty from the best class, probabilities are 1e-13; softened, they still count."""
    x, labels = torch.zeros(1, 1), torch.zeros(1).long()
    first, second = (nn.Linear(1, 3).requires_grad_(False) for _ in "ab")
    first.bias.copy_(torch.tensor([60.0, 30.0, 0.0]))
    second.bias.copy_(torch.tensor([60.0, 0.0, 30.0]))
    assert F.cross_entropy(first(x), labels) < 1e-9
    found = evaluate(
        first, [(x, labels)], reference=reference_outputs(second, [(x, labels)])
    ).divergence
    assert found == pytest.approx(math.exp(-30 / TEMPERATURE) * 30 / TEMPERATURE, rel=1e-2)


def test_evaluation_runs_in_eval_mode_and_restores_every_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    model[1].eval()
    before = state(model)
    batch = (random(8, 3, seed=0), torch.zeros(8, dtype=torch.long))
    first = evaluate(model, [batch])
    assert first == evaluate(model, [batch])
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert_same_state(model, before)
    assert all(p.grad is None and not p.is_inference() for p in model.parameters())


def test_modes_come_back_when_the_inside_fails() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    model[1].eval()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(m.training for m in model.modules())
        raise RuntimeError
    assert [m.training for m in model.modules()] == [True, True, False]


@pytest.mark.parametrize(("wanted", "sizes"), [(7, [4, 3]), (4, [4]), (100, [4, 4, 4]), (1, [1])])
def test_head_is_the_first_images_in_batches_of_a_size(wanted: int, sizes: list[int]) -> None:
    images, labels = torch.arange(12.0)[:, None], torch.arange(12)
    found = head(zip(images.split(5), labels.split(5), strict=True), wanted, 4)
    assert [len(x) for x, _ in found] == sizes
    assert torch.equal(torch.cat([x for x, _ in found])[:, 0], torch.arange(float(sum(sizes))))
    assert torch.equal(torch.cat([y for _, y in found]), torch.arange(sum(sizes)))
    assert head([], wanted, 4) == []


def test_head_does_not_read_further_than_it_must() -> None:
    def endless() -> Iterator[Batch]:
        for _ in range(2):
            yield torch.zeros(5, 1), torch.zeros(5)
        raise AssertionError("read too far")

    assert sum(len(x) for x, _ in head(endless(), 10, 3)) == 10
