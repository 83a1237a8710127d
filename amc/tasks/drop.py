"""What a network loses against another one, and how sure that is."""

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amc.runtime import feed
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

    @property
    def gains(self) -> bool:
        """Whether it is no drop but a gain of more than one standard error."""
        return self.points + self.error < 0

    def __str__(self) -> str:
        """For people."""
        return f"{self.points:.2f} ± {self.error:.2f} points on {self.images} images"


@dataclass(frozen=True)
class PartScores:
    """How good a network is on each part of the images.

    Attributes:
        scores: of every part.
        images: in every part.
    """

    scores: tuple[float, ...]
    images: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Over all images; with another score than a mean over images, the mean of the parts'."""
        every = zip(self.scores, self.images, strict=True)
        return math.fsum(score * images for score, images in every) / sum(self.images)


def part_scores(task: Task, model: nn.Module, parts: Iterable[tuple[Feed, Tensor]]) -> PartScores:
    """How good a network is on each part; every rank gets all of them."""
    found = [(evaluate(model, [part], task=task).accuracy, len(part[1])) for part in parts]
    return PartScores(tuple(score for score, _ in found), tuple(images for _, images in found))


def in_parts(batches: Iterable[tuple[Feed, Tensor]]) -> Iterator[tuple[Feed, Tensor]]:
    """The batches, each divided evenly, so that there are about `PARTS` or more of them.

    One after the other: a stream that does not fit the memory need not.
    """
    each = math.ceil(PARTS / max(1, len(batches))) if isinstance(batches, Sized) else PARTS
    for inputs, targets in batches:
        count = min(each, len(targets))

        def some(x: Tensor, count: int = count) -> Sequence[Tensor]:
            return x.tensor_split(count)

        yield from zip(feed.parted(inputs, some), some(targets), strict=True)


def drop_of(
    task: Task, original: nn.Module, small: nn.Module, images: Sequence[tuple[Feed, Tensor]]
) -> Drop:
    """What a network loses, and how sure that is: the parts are compared pair by pair."""
    return drop_between(task, *(part_scores(task, model, images) for model in (original, small)))


def drop_between(task: Task, before: PartScores, after: PartScores) -> Drop:
    """What is lost from one network to another, of their scores on the same parts."""
    sizes = torch.tensor(before.images, dtype=torch.float64)
    scores = [torch.tensor(one.scores) for one in (before, after)]
    lost = task.points * (scores[0] - scores[1]).double()
    weights = sizes / sizes.sum()
    mean = float((weights * lost).sum())
    spread = float((weights**2 * (lost - mean) ** 2).sum()) * len(lost) / max(1, len(lost) - 1)
    count = int(sizes.sum())
    least = math.sqrt(UNSEEN) / count if task.percent else 0.0
    return Drop(mean, max(math.sqrt(spread), task.points * least), count)
