"""What a network loses against another one, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amc.runtime.feed import Feed
from amc.tasks.evaluate import evaluate
from amc.tasks.task import Task

PARTS = 20
"""The images are scored in so many parts; how these differ tells how sure a drop is."""


UNSEEN = 0.5
"""Images on which networks differ, where they differ on none that were looked at (Jeffreys)."""


@dataclass(frozen=True)
class Drop:
    """What a network loses against the original, on images that nothing else has seen.

    Attributes:
        points: of the score; below 0 if it gains.
        error: standard error of this, from how parts of the images differ.
        images: how many.
    """

    points: float
    error: float
    images: int

    def within(self, most: float) -> bool:
        """Whether it keeps to a tolerated drop, one standard error included: 5 times in 6."""
        return self.points + self.error <= most

    def __str__(self) -> str:
        """For people."""
        return f"{self.points:.2f} ± {self.error:.2f} points on {self.images} images"


def drop_of(
    task: Task, original: nn.Module, small: nn.Module, images: Sequence[tuple[Feed, Tensor]]
) -> Drop:
    """What a network loses, and how sure that is: the parts are compared pair by pair."""
    sizes = torch.tensor([float(len(targets)) for _, targets in images])
    scores = [
        torch.tensor([evaluate(model, [part], task=task).accuracy for part in images])
        for model in (original, small)
    ]
    lost = task.points * (scores[0] - scores[1]).double()
    weights = sizes.double() / sizes.sum()
    mean = float((weights * lost).sum())
    spread = float((weights**2 * (lost - mean) ** 2).sum()) * len(lost) / (len(lost) - 1)
    count = int(sizes.sum())
    least = math.sqrt(UNSEEN) / count if task.percent else 0.0
    return Drop(mean, max(math.sqrt(spread), task.points * least), count)
