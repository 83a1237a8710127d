"""Batches decoded from pictures, the same for every number of worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amc.data.arrays.pictures import Pictures
from amc.data.arrays.preprocessing import Box, Preprocessing
from amc.data.loader import Batching, epoch_generator, to_float
from amc.runtime.errors import AmcError

CROP_AREA = (0.25, 1.0)  # of the image; milder than usual, since pruned networks underfit
CROP_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))


@dataclass(frozen=True)
class Files:
    """Pictures in files."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Image.Image:
        path = self.paths[index]
        try:
            with Image.open(path) as file:
                return file.convert("RGB")
        except Exception as error:  # a decoder may raise anything, from OSError to SyntaxError
            reason = " ".join(str(error).split())
            raise AmcError(f"{path}: cannot be read as an image ({reason})") from error


class ImageLoader:
    """Batches of pictures; order and augmentation depend on (seed, epoch) only.

    Args:
        pictures: The images, decoded one by one.
        labels: [N] class of each.
        preprocessing: What of an image is shown, at which size, and how it is normalised.
        batch_size: Images per batch; the last may be smaller.
        augment: Shuffle, take a random crop of each image and flip half of them; without it, the
            order is the one given and each image is shown as the preprocessing says.
        flip: Flip half of the images where they are augmented.
        workers: Processes that decode; 0 decodes in this one.
        seed: With the epoch, fixes order and augmentation.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: Sequence[int],
        *,
        preprocessing: Preprocessing,
        batch_size: int,
        augment: bool = False,
        flip: bool = True,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        Batching(seed, batch_size)  # refuses what is out of range
        self.fixed = not augment
        self._pictures, self._labels, self._shown = pictures, list(labels), preprocessing
        self._batch_size, self._augment, self._workers = batch_size, augment, workers
        self._flip = flip
        self._seed, self._epoch = seed, 0

    @property
    def samples(self) -> int:
        """Images of one pass."""
        return len(self._labels)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the following passes; `epoch` counts from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._labels) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._decoded(self._order())

    def batches_of_rank(self, rank: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every ``count``-th batch; the others are not decoded."""
        return self._decoded(self._order()[rank::count])

    def slices_of_rank(self, rank: int, count: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """A slice of every batch, and how many images the batch has; see `amc.data.slices`."""
        batches = self._order()
        own = [rows.tensor_split(count)[rank] for rows in batches]
        decoded = self._decoded([rows for rows in own if len(rows)])
        for rows, batch in zip(own, batches, strict=True):
            nothing = torch.empty(0, *self._shown.shape), torch.empty(0, dtype=torch.int64)
            yield *(next(decoded) if len(rows) else nothing), len(batch)

    def _order(self) -> Sequence[Tensor]:
        """The images of each batch."""
        generator, count = epoch_generator(self._seed, self._epoch), len(self._labels)
        order = (
            torch.randperm(count, generator=generator) if self._augment else torch.arange(count)
        )
        return torch.split(order, self._batch_size)

    def _decoded(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        # Its own generator, because a DataLoader draws its workers' seeds from the global one.
        generator = epoch_generator(self._seed, self._epoch)
        random = (self._seed, self._epoch) if self._augment else None
        batches = DataLoader(
            _Batches(self._pictures, self._labels, self._shown, self._flip, random),
            sampler=[rows.tolist() for rows in order],
            batch_size=None,  # what the sampler yields is a whole batch already
            num_workers=self._workers,
            generator=generator,
        )
        for batch in batches:
            if isinstance(batch, AmcError):
                raise batch
            images, labels = batch
            yield images, labels


@dataclass(frozen=True)
class _Batches(Dataset["tuple[Tensor, Tensor] | AmcError"]):
    """The images at a list of indices; `random` is (seed, epoch) to augment them, None not to."""

    pictures: Pictures
    labels: list[int]
    shown: Preprocessing
    flip: bool
    random: tuple[int, int] | None

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor] | AmcError:
        try:
            images = torch.from_numpy(np.stack([self._pixels(index) for index in indices]))
        except AmcError as error:
            # Returned: a DataLoader would wrap what a worker raises in the text of a traceback.
            return error
        labels = torch.tensor([self.labels[index] for index in indices])
        return to_float(images.permute(0, 3, 1, 2).contiguous(), self.shown.normalise), labels

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        """One image, [side, side, channels]."""
        picture, flip = self.pictures[index], False
        box = self.shown.centre(*picture.size)
        if self.random is not None:
            # Seeded per image: it does not matter which process decodes it, or after which others.
            random = np.random.default_rng((*self.random, index))
            box, flip = _random_box(*picture.size, random), random.random() < 0.5
        pixels = self.shown.pixels(picture, box)
        return pixels[:, ::-1] if flip and self.flip else pixels


def _random_box(width: int, height: int, random: np.random.Generator) -> Box:
    """A box of random area, shape and place, inside the image."""
    area = width * height * random.uniform(*CROP_AREA)
    aspect = math.exp(random.uniform(*CROP_LOG_ASPECT))
    across, down = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = random.uniform(0, width - across), random.uniform(0, height - down)
    # The sum may round to a hair outside, which Pillow refuses.
    return left, top, min(width, left + across), min(height, top + down)
