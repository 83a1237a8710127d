"""Outputs of the original that are computed once for all epochs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amc.config.train import TrainConfig
from amc.data import TensorLoader, load_data, start_epoch
from amc.runtime import distributed
from amc.runtime.errors import AmcError
from amc.train import run
from amc.training import teacher_outputs, trainer
from amc.training.distillation import Distillation


class Counting(nn.Module):
    """A teacher that counts the images it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4))
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        found: Tensor = self.inner(images)
        return found


def stream(augmented: bool = False) -> TensorLoader:
    images = torch.rand(10, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    images[7] = images[2]  # twice the same

    def brighter(images: Tensor, generator: torch.Generator) -> Tensor:
        return images + torch.rand(1, generator=generator)

    augment = brighter if augmented else None
    labels = torch.arange(10) % 4
    return TensorLoader(images, labels, batch_size=4, shuffle=True, augment=augment)


def test_outputs_are_the_teacher_s_in_any_order() -> None:
    teacher, data = Counting().eval(), stream()
    steps: list[None] = []
    by_heart = teacher_outputs.precomputed(teacher, data, lambda: steps.append(None))
    assert (teacher.asked, len(steps)) == (10, 3)
    for epoch in (0, 1, 5):
        start_epoch(data, epoch)
        for images, _ in data:
            torch.testing.assert_close(by_heart(images), teacher.inner(images))
    assert teacher.asked == 10


def test_teacher_is_asked_in_eval_mode_and_left_as_it_was() -> None:
    teacher, data = Counting().train(), stream()
    by_heart = teacher_outputs.precomputed(teacher, data)
    assert teacher.training
    images, _ = next(iter(data))
    torch.testing.assert_close(by_heart(images), teacher.eval().inner(images))


def test_outputs_do_not_depend_on_the_epoch_they_are_first_wanted_in() -> None:
    """Or a training that goes on after a stop would go another way."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    data = stream()
    first = teacher_outputs.precomputed(teacher, data)
    start_epoch(data, 3)
    later = teacher_outputs.precomputed(teacher, data)
    for images, _ in data:
        assert torch.equal(first(images), later(images))


def test_random_numbers_go_on_as_if_nothing_had_been_computed() -> None:
    """The shuffling of a `DataLoader` draws from them."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(48, 7))
    images = torch.rand(32, 3, 4, 4)
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.zeros(32)), batch_size=5, shuffle=True
    )
    state = torch.get_rng_state()
    first = teacher_outputs.precomputed(teacher, data)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(5)
    assert teacher_outputs.precomputed(teacher, data)(images).equal(first(images))


def test_distillation_by_heart_is_distillation() -> None:
    torch.manual_seed(0)
    teacher, student = Counting(), nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    data = stream()
    images, labels = next(iter(data))
    by_heart = Distillation(teacher_outputs.precomputed(teacher, data))
    expected = Distillation(teacher)(student, images, labels)
    torch.testing.assert_close(by_heart(student, images, labels), expected)


def test_only_images_that_never_change_are_remembered() -> None:
    teacher = Counting()
    assert teacher_outputs.can_precompute(teacher, stream())
    assert not teacher_outputs.can_precompute(teacher, stream(augmented=True))
    assert not teacher_outputs.can_precompute(teacher, list(stream()))  # says nothing
    assert not teacher_outputs.can_precompute(teacher.to("meta"), stream())
    data = load_data("digits")
    assert not teacher_outputs.can_precompute(Counting(), data.train)
    assert teacher_outputs.can_precompute(Counting(), data.calibration)


def test_several_ranks_do_not_remember() -> None:
    with distributed.process_group(0, 2, torch.device("cpu")):
        assert not teacher_outputs.can_precompute(Counting(), stream())


def test_too_many_outputs_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Counting()
    monkeypatch.setattr(
        teacher_outputs, "MOST_BYTES", 4 * 4 * 4 * 3
    )  # 3 batches of 4 images, exactly
    assert teacher_outputs.precomputed(teacher, stream()) is not teacher
    monkeypatch.setattr(teacher_outputs, "MOST_BYTES", 4 * 4 * 4 * 3 - 1)
    assert teacher_outputs.precomputed(teacher, stream()) is teacher


def test_loader_that_claims_too_much_is_told_so() -> None:
    data = stream(augmented=True)
    data.fixed = True
    by_heart = teacher_outputs.precomputed(Counting(), data)
    start_epoch(data, 1)
    with pytest.raises(AmcError, match=r"^training: .*fixed = True"):
        by_heart(next(iter(data))[0])


OWN_DATA = """
from dataclasses import replace
import torch
from torch import nn
from amc.data import TensorLoader, load_data

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))

def digits():
    data = load_data("digits")
    batches = list(data.calibration)
    images, labels = (torch.cat([one[i] for one in batches])[:200] for i in (0, 1))
    train = TensorLoader(images, labels, batch_size=50, shuffle=True)
    train.fixed = {fixed}
    return replace(data, name="own", train=train)
"""


def test_run_asks_the_original_once_and_goes_on_after_a_stop_to_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[nn.Module] = []
    precompute = teacher_outputs.precomputed

    def noted(*arguments: Any) -> nn.Module:
        made.append(precompute(*arguments))
        return made[-1]

    monkeypatch.setattr("amc.steps.finetune.precomputed", noted)

    def settings(fixed: bool, name: str) -> TrainConfig:
        own = tmp_path / f"own_{fixed}.py"
        own.write_text(OWN_DATA.format(fixed=fixed))
        return TrainConfig.of(
            mode="uniform", model=f"{own}:net", data=f"{own}:digits",
            calibration_batches=1, device="cpu", quiet=True, finetune_epochs=4,
            schedule="linear", schedule_steps=2, stage_epochs=0.5, run_dir=tmp_path / name,
        )  # fmt: skip

    run(settings(False, "run-anew"))
    assert not made
    whole = run(settings(True, "whole"))
    assert len(made) == 1 and isinstance(
        made[0], teacher_outputs.PrecomputedOutputs
    )  # for all stages

    run_epoch, epochs = trainer._Training.run_epoch, 0

    def stopping(self: trainer._Training, *arguments: Any) -> float:
        nonlocal epochs
        epochs += 1
        if epochs == 4:  # the second of the second stage
            raise KeyboardInterrupt
        return run_epoch(self, *arguments)

    monkeypatch.setattr(trainer._Training, "run_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(settings(True, "stopped"))
    run(TrainConfig.of(resume=tmp_path / "stopped", quiet=True))
    left = (tmp_path / "stopped" / "pruned.safetensors").read_bytes()
    assert left == (whole / "pruned.safetensors").read_bytes()
