"""What a network loses, counted by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from amc.tasks.drop import PARTS, Drop, drop_of
from amc.tasks.task import CLASSIFICATION


class Answers(nn.Module):
    """Says the class that is written in the first pixel, or in the second."""

    def __init__(self, pixel: int) -> None:
        super().__init__()
        self.pixel, self.none = pixel, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x.flatten(1)[:, self.pixel].long(), 3).float()


def parts(answers: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
    """Images on which the two networks answer so; the right answer is always 1."""
    images = torch.tensor(answers, dtype=torch.float32).reshape(-1, 1, 1, 2)
    targets = torch.ones(len(images)).long()
    return list(zip(images.tensor_split(PARTS), targets.tensor_split(PARTS), strict=True))


def test_points_are_those_of_the_whole_and_the_error_is_of_the_mean_of_the_parts() -> None:
    # 40 images in 20 parts of 2: in four parts one more is wrong, in one part one less
    answers = [(1, 1)] * 40
    for part in range(4):
        answers[2 * part] = (1, 0)
    answers[39] = (2, 1)
    found = drop_of(CLASSIFICATION, Answers(0), Answers(1), parts(answers))
    assert found.points == pytest.approx(100 * 3 / 40)
    assert found.images == 40
    each = torch.tensor([50.0] * 4 + [0.0] * 15 + [-50.0])
    assert found.error == pytest.approx(float(each.std() / math.sqrt(20)), rel=1e-6)


def test_networks_that_answer_alike_are_not_sure_to_be_alike() -> None:
    found = drop_of(CLASSIFICATION, Answers(0), Answers(0), parts([(1, 1)] * 60))
    assert (found.points, found.error) == (0, pytest.approx(100 * math.sqrt(0.5) / 60))


def test_a_drop_is_within_with_its_error() -> None:
    assert Drop(0.6, 0.4, 100).within(1.0)
    assert not Drop(0.7, 0.4, 100).within(1.0)
    assert Drop(-2.0, 0.5, 100).within(0.0)
