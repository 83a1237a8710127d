"""Batches decoded from image files, the same for every number of worker processes."""

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

from amc.data.loader import Batching, Normalise, epoch_generator, to_float
from amc.runtime.errors import AmcError

NORMALISE: Normalise = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet, as usual
CROP_AREA = (0.25, 1.0)  # of the image; milder than usual, since pruned networks underfit
CROP_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class ImageLoader:
    """Batches of image files; order and augmentation depend on (seed, epoch) only.

    Args:
        paths: The image files.
        labels: [N] class of each file.
        side: Height and width in pixels of the images in a batch.
        batch_size: Images per batch; the last may be smaller.
        augment: Shuffle, take a random crop of each image and flip half of them; without it, the
            order is the one given and each image is a central square.
        crop: Side of that square, of the image's shorter side. 1 is the largest; 0.875 is what
            resizing to 256 and cropping the centre of 224 shows, as is usual on ImageNet.
        workers: Processes that decode; 0 decodes in this one.
        seed: With the epoch, fixes order and augmentation.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        *,
        side: int,
        batch_size: int,
        augment: bool = False,
        crop: float = 1.0,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        Batching(seed, batch_size)  # refuses what is out of range
        self.fixed = not augment
        self._paths, self._labels, self._side = list(paths), list(labels), side
        self._batch_size, self._augment, self._workers = batch_size, augment, workers
        self._crop = crop
        self._seed, self._epoch = seed, 0

    @property
    def samples(self) -> int:
        """Images of one pass."""
        return len(self._paths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the following passes; `epoch` counts from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._paths) // self._batch_size)

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
            nothing = torch.empty(0, 3, self._side, self._side), torch.empty(0, dtype=torch.int64)
            yield *(next(decoded) if len(rows) else nothing), len(batch)

    def _order(self) -> Sequence[Tensor]:
        """The images of each batch."""
        generator, count = epoch_generator(self._seed, self._epoch), len(self._paths)
        order = (
            torch.randperm(count, generator=generator) if self._augment else torch.arange(count)
        )
        return torch.split(order, self._batch_size)

    def _decoded(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        # Its own generator, because a DataLoader draws its workers' seeds from the global one.
        generator = epoch_generator(self._seed, self._epoch)
        random = (self._seed, self._epoch) if self._augment else None
        batches = DataLoader(
            _Batches(self._paths, self._labels, self._side, self._crop, random),
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

    paths: list[Path]
    labels: list[int]
    side: int
    crop: float
    random: tuple[int, int] | None

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor] | AmcError:
        try:
            images = torch.from_numpy(np.stack([self._pixels(index) for index in indices]))
        except AmcError as error:
            # Returned: a DataLoader would wrap what a worker raises in the text of a traceback.
            return error
        labels = torch.tensor([self.labels[index] for index in indices])
        return to_float(images.permute(0, 3, 1, 2).contiguous(), NORMALISE), labels

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        """One image, [side, side, 3]."""
        path, flip = self.paths[index], False
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except Exception as error:  # a decoder may raise anything, from OSError to SyntaxError
            reason = " ".join(str(error).split())
            raise AmcError(f"{path}: cannot be read as an image ({reason})") from error
        box = _central_square(*image.size, self.crop)
        if self.random is not None:
            # Seeded per image: it does not matter which process decodes it, or after which others.
            random = np.random.default_rng((*self.random, index))
            box, flip = _random_box(*image.size, random), random.random() < 0.5
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)
        pixels = np.asarray(image)
        return pixels[:, ::-1] if flip else pixels


def _central_square(width: int, height: int, part: float) -> Box:
    """A centred square: resizing the shorter side and cropping the centre, in one."""
    short = min(width, height) * part
    left, top = (width - short) / 2, (height - short) / 2
    return left, top, left + short, top + short


def _random_box(width: int, height: int, random: np.random.Generator) -> Box:
    """A box of random area, shape and place, inside the image."""
    area = width * height * random.uniform(*CROP_AREA)
    aspect = math.exp(random.uniform(*CROP_LOG_ASPECT))
    across, down = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = random.uniform(0, width - across), random.uniform(0, height - down)
    # The sum may round to a hair outside, which Pillow refuses.
    return left, top, min(width, left + across), min(height, top + down)
