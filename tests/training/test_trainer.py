"""Training against its formulas; it goes back, and goes on after a stop."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.runtime.errors import AmcError
from amc.tasks.evaluate import evaluate
from amc.training.checkpoint import Checkpoint
from amc.training.distillation import Distillation, cross_entropy
from amc.training.movement import Movement
from amc.training.recipe import Recipe, optimiser
from amc.training.trainer import Step, train
from small_trainings import (
    Batch,
    Batches,
    assert_same_state,
    random,
    separable,
    small,
    state,
    stream,
)

# Training


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


def test_movement_is_added_up_without_changing_the_training(tmp_path: Path) -> None:
    """Sum of -w g over all steps, as a plain loop has it; a stop in the middle loses none."""
    recipe = Recipe(3, 0.05, weight_decay=0.0, clip=0.0)
    plain = train(small(), stream(), recipe)
    model = small()
    movement = Movement(model)
    assert_same_state(train(model, stream(), recipe, movement=movement), state(plain))

    by_hand = small().train()
    sgd, batches = optimiser(by_hand, recipe), list(stream())
    expected = {name: torch.zeros_like(p) for name, p in by_hand.named_parameters()}
    for step in range(9):
        recipe.set_rate(sgd, step / 9)
        sgd.zero_grad()
        cross_entropy(by_hand, *batches[step % 3]).backward()
        for name, parameter in by_hand.named_parameters():
            expected[name] -= parameter.detach() * parameter.grad
        sgd.step()
    for name, one in expected.items():
        torch.testing.assert_close(movement.sums[name].float(), one, rtol=1e-4, atol=1e-6)

    checkpoint = Checkpoint(tmp_path / "training.safetensors", {})

    def end(step: Step) -> None:
        if step.step == 5:
            raise Stopped

    stopped = small()
    with pytest.raises(Stopped):
        train(
            stopped, stream(), recipe, on_step=end, checkpoint=checkpoint,
            movement=Movement(stopped),
        )  # fmt: skip
    resumed = small()
    found = Movement(resumed)
    train(resumed, stream(), recipe, checkpoint=checkpoint, movement=found)
    for name, one in movement.sums.items():
        assert torch.equal(found.sums[name], one)


def test_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(AmcError, match="corrupt") as refused:
        train(small(), stream(), Recipe(2, 0.1), checkpoint=Checkpoint(path, {}))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
