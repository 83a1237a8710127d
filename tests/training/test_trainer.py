"""Batch-norm adaptation, distillation and training against their formulas."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import logsumexp
from torch import Tensor, nn

from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.runtime.errors import AmcError
from amc.tasks.batches import head
from amc.tasks.evaluate import TEMPERATURE, Score, evaluate, evaluating, reference_outputs
from amc.training.checkpoint import Checkpoint
from amc.training.distillation import Distillation, cross_entropy, supervised
from amc.training.recipe import Recipe, clip_by_filter_norm
from amc.training.trainer import Step, train

Batch = tuple[Tensor, Tensor]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Batches:
    """A stream of fixed batches that notes the epochs it was given."""

    def __init__(self, *batches: Batch) -> None:
        self.batches, self.epochs = batches, list[int]()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same_state(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# Evaluation


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


# Batch norm


class Normed(nn.Module):
    """Two norms behind each other: the second sees what the first makes of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3)
        self.drop, self.second = nn.Dropout(0.5), nn.BatchNorm1d(3, affine=False)
        self.frozen = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.conv(x))).mean((2, 3))
        return self.second(self.drop(x))


def test_batchnorm_statistics_are_the_average_over_the_images() -> None:
    """Batches of different sizes: each counts by its images."""
    torch.manual_seed(0)
    model = Normed()
    nn.init.normal_(model.first.weight)
    batches = [(random(n, 2, 6, 6, seed=n) * n, torch.zeros(n)) for n in (8, 9, 5)]
    expected: dict[str, list[np.ndarray]] = {"m1": [], "v1": [], "m2": [], "v2": []}
    for images, _ in batches:
        x = model.conv(images).detach().double().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
        expected["m1"].append(x.mean(axis=1))
        expected["v1"].append(x.var(axis=1, ddof=1))
        y = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        weight = model.first.weight.detach().double().numpy()[:, None]
        y = np.maximum(y * weight, 0).reshape(3, len(images), -1).mean(axis=2)
        expected["m2"].append(y.mean(axis=1))
        expected["v2"].append(y.var(axis=1, ddof=1))
    model.first.running_mean.fill_(7)  # what was there before has no part in it
    assert adapt_batchnorm(model, batches) is model
    for norm, number in ((model.first, "1"), (model.second, "2")):
        for found, name in ((norm.running_mean, "m"), (norm.running_var, "v")):
            wanted = np.average(expected[name + number], axis=0, weights=[8, 9, 5])
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_batchnorm_adaptation_leaves_everything_else_as_it_was(training: bool) -> None:
    torch.manual_seed(0)
    model = Normed().train(training)
    model.second.momentum = None
    before = state(model)
    adapt_batchnorm(model, [(random(8, 2, 6, 6, seed=0), torch.zeros(8))])
    assert [model.first.momentum, model.second.momentum] == [0.3, None]
    assert all(m.training == training for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == ("running" not in name and "num_" not in name)
    assert all(p.grad is None for p in model.parameters())


def test_momentum_comes_back_when_the_network_fails() -> None:
    model = Normed().eval()
    with pytest.raises(RuntimeError):
        adapt_batchnorm(model, [(torch.zeros(4, 5, 6, 6), torch.zeros(4))])
    assert model.first.momentum == 0.3
    assert not any(m.training for m in model.modules())


def test_networks_without_batchnorm_are_not_even_run() -> None:
    def fail() -> Iterator[Batch]:
        raise AssertionError("the images were asked for")
        yield

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert adapt_batchnorm(model, fail()) is model


def test_adapted_batchnorm_repairs_a_network_whose_inputs_moved() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    x = random(500, 4, seed=0)
    adapt_batchnorm(model, [(x, x)])
    model.eval()
    expected = model(x).detach()
    moved = 5 * x + 3
    assert (model(moved) - expected).abs().max() > 1
    adapt_batchnorm(model, [(moved, moved)])
    torch.testing.assert_close(model(moved).detach(), expected, rtol=1e-3, atol=1e-3)


# Distillation


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


# Training


def separable(count: int = 60, seed: int = 0) -> Batch:
    """Two clouds with a wide gap."""
    labels = torch.arange(count) % 2
    return random(count, 3, seed=seed) + 6 * labels[:, None], labels


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def stream(batch: int = 20) -> Batches:
    x, y = separable()
    return Batches(*zip(x.split(batch), y.split(batch), strict=True))


def test_training_learns_what_can_be_learned() -> None:
    model = small()
    test = [separable(200, seed=9)]
    before = evaluate(model, test)
    found = train(model, stream(), Recipe(10, 0.1))
    assert found is model and not any(m.training for m in model.modules())
    after = evaluate(model, test)
    assert after.accuracy > 0.99 > before.accuracy
    assert after.loss < 0.1 < before.loss


def test_rate_rises_linearly_and_falls_as_half_a_cosine() -> None:
    steps: list[Step] = []
    train(small(), stream(6), Recipe(4, 0.2, warmup=0.25), on_step=steps.append)
    assert [s.step for s in steps] == list(range(1, 41))
    assert [s.epoch for s in steps] == [e for e in (1, 2, 3, 4) for _ in range(10)]
    assert {s.total for s in steps} == {40}
    rates = np.array([s.learning_rate for s in steps])
    rise = np.diff(rates[:11])
    np.testing.assert_allclose(rise, rise[0], rtol=1e-9)
    assert 0 < rates[0] < 0.001
    assert rates.argmax() == 10 and rates[10] == pytest.approx(0.2)
    fall = [0.1 * (1 + math.cos(math.pi * (i - 10) / 30)) for i in range(10, 40)]
    np.testing.assert_allclose(rates[10:], fall, rtol=1e-9)
    assert rates[25] == pytest.approx(0.1)  # half way down


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    steps: list[Step] = []
    train(small(), stream(), Recipe(2, 0.1, warmup=0.0), on_step=steps.append)
    assert steps[0].learning_rate == pytest.approx(0.1)


def test_one_step_is_sgd_with_nesterov_momentum_and_decay_of_matrices_only() -> None:
    """v = g + d w; with a fresh buffer Nesterov takes w - lr (1 + m) v. Norms, biases: d = 0."""
    model = small()
    before, (x, y) = copy.deepcopy(model), separable()
    F.cross_entropy(before.train()(x), y).backward()
    recipe = Recipe(1, 0.1, warmup=0.0, momentum=0.8, weight_decay=0.3)
    train(model, Batches((x, y)), recipe)
    decayed = []
    for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        decay = 0.3 if old.ndim > 1 else 0.0
        expected = old - 0.1 * 1.8 * (old.grad + decay * old)
        torch.testing.assert_close(new, expected, rtol=1e-5, atol=1e-6)
        decayed += [name] if decay else []
    assert decayed == ["0.weight", "3.weight"]


def test_frozen_parameters_stay() -> None:
    model = small()
    model[0].requires_grad_(False)
    before = state(model)
    train(model, stream(), Recipe(1, 0.1))
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[3].weight, before["3.weight"])


def test_loss_reported_is_that_of_the_batch_before_the_step() -> None:
    model, steps = small(), list[Step]()
    x, y = separable()
    expected = F.cross_entropy(copy.deepcopy(model).train()(x), y).item()
    train(model, Batches((x, y)), Recipe(1, 0.1), on_step=steps.append)
    assert steps[0].loss == pytest.approx(expected, rel=1e-6)


def test_given_loss_is_what_is_minimised() -> None:
    model = nn.Linear(3, 2, bias=False)
    target = random(2, 3, seed=4)

    def distance(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return (net.weight - target).square().sum()

    train(model, stream(), Recipe(60, 0.05, weight_decay=0.0), distance)
    torch.testing.assert_close(model.weight.detach(), target, rtol=1e-3, atol=1e-3)


def test_training_repeats_bit_for_bit() -> None:
    first, second = (train(small(), stream(), Recipe(3, 0.1)) for _ in range(2))
    assert_same_state(first, state(second))
    other = train(small(seed=1), stream(), Recipe(3, 0.1))
    assert not torch.equal(first[0].weight, other[0].weight)


def test_every_epoch_has_its_own_number_and_is_reported() -> None:
    data, seen = stream(), list[int]()
    train(
        small(), data, Recipe(3, 0.1), on_epoch=lambda epoch, _: seen.append(epoch), first_epoch=5
    )
    assert data.epochs == [5, 6, 7]
    assert seen == [1, 2, 3]


def test_no_epochs_change_nothing() -> None:
    model, data = small(), stream()
    before = state(model)
    assert train(model, data, Recipe(0, 0.1)) is model
    assert_same_state(model, before)
    assert data.epochs == [] and not model.training


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_ends_training_in_one_line(bad: float) -> None:
    x, y = separable()
    spoilt = x.clone()
    spoilt[0, 0] = bad
    data = Batches((x, y), (spoilt, y), (x, y))
    steps: list[Step] = []
    with pytest.raises(AmcError, match=r"loss is (nan|inf) in epoch 1 of 2") as refused:
        train(small(), data, Recipe(2, 0.1), on_step=steps.append)
    assert "\n" not in str(refused.value)
    assert [step.step for step in steps] == [1] * 4  # the first try and three more
    rates = [step.learning_rate for step in steps]
    assert rates == pytest.approx([rates[0] / 2**i for i in range(4)])


def test_exploding_rate_ends_training_in_one_line() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    with pytest.raises(AmcError, match=r"smaller learning rate than 1e\+06 may help"):
        train(model, stream(), Recipe(50, 1e6, warmup=0.0))


def test_student_learns_from_its_teacher() -> None:
    """Labels are noise here: only the teacher knows the classes."""
    teacher = train(small(), stream(), Recipe(10, 0.1))
    x, _ = separable()
    noise = torch.randint(0, 2, (60,), generator=torch.Generator().manual_seed(0))
    data = Batches(*zip(x.split(20), noise.split(20), strict=True))
    test = [separable(200, seed=9)]
    before = state(teacher)
    taught = train(small(1), data, Recipe(20, 0.05), Distillation(teacher, 4.0, 6.25))
    assert evaluate(taught, test).accuracy > 0.99
    alone = train(small(1), data, Recipe(20, 0.05))
    assert evaluate(alone, test).accuracy < 0.9
    assert_same_state(teacher, before)


# Going back and going on


class Spoiling(Batches):
    """Labels of nothing, once, in one epoch."""

    def __iter__(self) -> Iterator[Batch]:
        spoilt = self.epochs[-1] == 1 and self.epochs.count(1) == 1
        for number, (images, labels) in enumerate(self.batches):
            yield images * math.nan if spoilt and number == 2 else images, labels


def test_training_goes_back_to_its_last_good_epoch_with_half_the_rate() -> None:
    data, steps, validated = Spoiling(*stream().batches), list[Step](), list[int]()
    model = train(
        small(), data, Recipe(4, 0.1), on_step=steps.append,
        on_epoch=lambda epoch, _: validated.append(epoch),
    )  # fmt: skip
    assert data.epochs == [0, 1, 1, 2, 3] and validated == [1, 2, 3, 4]
    again = [s for s in steps if s.epoch == 2]
    assert [s.step for s in again] == [4, 5, 4, 5, 6]
    assert again[2].learning_rate == again[0].learning_rate / 2
    assert again[2].loss == again[0].loss  # the same weights and batch
    assert all(bool(t.isfinite().all()) for t in model.state_dict().values())


class Dropping(nn.Module):
    """Draws random numbers as it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.drop = small(), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(self.drop(x))
        return scores


class Stopped(Exception):
    pass


@pytest.mark.parametrize("recipe", [Recipe(5, 0.1), Recipe(5, 0.1, ema=0.9, clip=1.0)])
def test_training_that_was_stopped_goes_on_to_the_same_weights(
    recipe: Recipe, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    whole = train(Dropping(), stream(), recipe)
    for stop in (1, 4, 9, 14):
        checkpoint = Checkpoint(tmp_path / f"{stop}.safetensors", {"stop": stop})

        def end(step: Step, stop: int = stop) -> None:
            if step.step == stop:
                raise Stopped

        torch.manual_seed(3)
        with pytest.raises(Stopped):
            train(Dropping(), stream(), recipe, on_step=end, checkpoint=checkpoint)
        assert checkpoint.path.exists() == (stop > 3)
        torch.manual_seed(3)
        steps: list[Step] = []
        again = train(Dropping(), stream(), recipe, on_step=steps.append, checkpoint=checkpoint)
        assert_same_state(again, state(whole))
        assert len(steps) == 15 - (stop - 1) // 3 * 3
        finished = train(Dropping(), stream(), recipe, checkpoint=checkpoint)
        assert_same_state(finished, state(whole))


def test_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    train(small(1), stream(), Recipe(2, 0.1), checkpoint=Checkpoint(path, {"a": 1}))
    assert Checkpoint(path, {"a": 1}).load() is not None
    assert Checkpoint(path, {"a": 2}).load() is None
    found = train(small(), stream(), Recipe(2, 0.1), checkpoint=Checkpoint(path, {"a": 2}))
    assert_same_state(found, state(train(small(), stream(), Recipe(2, 0.1))))


def test_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(AmcError, match="corrupt") as refused:
        train(small(), stream(), Recipe(2, 0.1), checkpoint=Checkpoint(path, {}))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


# Recipes


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
