"""Random changes to a batch of training images, drawn from the generator they are given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Images [B, C, H, W] of any dtype and a generator in; images of the same shape and dtype out.
Augment = Callable[[Tensor, torch.Generator], Tensor]


def random_shift(pixels: int) -> Augment:
    """Move each image by its own whole-pixel offset, up to `pixels` in both directions.

    The uncovered border repeats the image's edge: a black border would be a colour that the
    evaluation images do not have there.
    """

    def shift(images: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = images.shape
        offset = torch.randint(-pixels, pixels + 1, (2, batch, 1), generator=generator)
        rows = (torch.arange(height) + offset[0]).clamp(0, height - 1)
        columns = (torch.arange(width) + offset[1]).clamp(0, width - 1)
        moved = images.gather(2, rows[:, None, :, None].expand_as(images))
        return moved.gather(3, columns[:, None, None, :].expand_as(images))

    return shift


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def both(first: Augment, second: Augment) -> Augment:
    """The two changes one after the other."""

    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        return second(first(images, generator), generator)

    return change
