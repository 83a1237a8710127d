"""What a data set is to the rest of the program, and the loader for images held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from amc.data.arrays.augment import Augment
from amc.data.arrays.preprocessing import Normalise
from amc.runtime import distributed, feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed


@runtime_checkable
class Loader(Protocol):
    """Batches that can be gone through again and again; a `DataLoader` is one.

    One with an attribute ``fixed`` that is true has the same images every time, in any order.
    """

    def __iter__(self) -> Iterator[tuple[Feed, Tensor]]: ...

    def __len__(self) -> int:
        """The number of batches."""
        ...


@dataclass(frozen=True)
class Data:
    """The four streams of a data set, each of (images [B,C,H,W] float32, labels [B] int64).

    For another task than classification the labels are targets [B, ...]. Instead of images there
    may be any tensors [B, ...] that the network takes, several of them in containers, see `Feed`.
    """

    name: str
    train: Loader  # shuffled and augmented, a new order every epoch; training and fine-tuning
    calibration: Loader  # training images as they are, fixed order; statistics and BN adaptation
    val: Loader  # held out from training; the reward
    test: Loader  # never seen by calibration or reward; the report only
    num_classes: int  # 0: not known, and of no importance
    input_shape: Any  # channels, height, width; of several inputs a shape each, see `feed.forms`
    example: Feed | None = None  # some samples, where they are not float32 images of that shape
    prepared: str = ""  # how images are made, where the network or the data has a say in it

    @property
    def in_channels(self) -> int:
        """Channels of the first input."""
        return next((int(size) for size in tree_leaves(self.input_shape)), 1)


@dataclass(frozen=True)
class Batching:
    """How the streams of a data set are cut into batches, and the seed of the training stream."""

    seed: int = 0
    batch_size: int = 64
    eval_batch_size: int = 256  # every stream but train

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("batch_size", 1), ("eval_batch_size", 1)):
            if (given := getattr(self, name)) < least:
                raise AmcError(f"{name}: {given} given, must be at least {least}")


class TensorLoader:
    """Batches sliced from tensors in memory; order and augmentation depend on (seed, epoch) only.

    Going through it does not advance the epoch: the loop that counts epochs sets it, so that a
    resumed run sees the batches the interrupted one would have seen. The last batch may be small.

    Args:
        images: [N, C, H, W], uint8 or float32 in [0, 1].
        labels: [N] int64, or the targets of another task, [N, ...].
        batch_size: Images per batch.
        shuffle: A new order every epoch, instead of the order given.
        augment: Changes each batch; gets the images as stored, before normalisation.
        normalise: Mean and standard deviation per channel, applied batch by batch, so that a large
            data set stays in memory as uint8.
        seed: With the epoch, fixes order and augmentation.

    Raises:
        AmcError: Images and labels do not match, or there are none.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        shuffle: bool = False,
        augment: Augment | None = None,
        normalise: Normalise | None = None,
        seed: int = 0,
    ) -> None:
        if images.ndim != 4 or not len(images) or labels.shape[:1] != images.shape[:1]:
            raise AmcError(
                f"TensorLoader: images {list(images.shape)} and labels {list(labels.shape)}, "
                "must be [N, C, H, W] and [N, ...] with N of at least 1"
            )
        Batching(seed, batch_size)  # refuses what is out of range
        self.fixed = augment is None
        self._images, self._labels, self._batch_size = images, labels, batch_size
        self._shuffle, self._augment, self._normalise = shuffle, augment, normalise
        self._seed, self._epoch = seed, 0

    @property
    def samples(self) -> int:
        """Images of one pass."""
        return len(self._images)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the following passes; `epoch` counts from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._images) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = epoch_generator(self._seed, self._epoch)
        count = len(self._images)
        order = (
            torch.randperm(count, generator=generator) if self._shuffle else torch.arange(count)
        )
        for rows in torch.split(order, self._batch_size):
            images = self._images[rows]  # a copy: what a network does in place stays in its batch
            if self._augment is not None:
                images = self._augment(images, generator)
            yield to_float(images, self._normalise), self._labels[rows]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A generator that is a function of both numbers; nearby pairs give unrelated streams."""
    mixed = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def start_epoch(loader: Loader, epoch: int) -> None:
    """Call the loader's `set_epoch` if it has one; a user's own loader need not."""
    set_epoch = getattr(loader, "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)


def images_in(loader: Loader) -> int:
    """Images of one pass.

    As the loader says by ``samples``, or a `DataLoader` by its sampler; of another, all batches
    are taken to be as large as the first.
    """
    if isinstance(said := getattr(loader, "samples", None), int):
        return said
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if isinstance(sampler, Sized) and isinstance(size, int):
        return min(len(sampler), size * len(loader))  # less where the last batch is dropped
    _, labels = next(iter(loader))
    return len(labels) * len(loader)


def slices(loader: Loader) -> Iterator[tuple[Feed, Tensor, int]]:
    """This rank's images and labels of every batch, and how many images the whole batch has.

    A loader with a method `slices_of_rank` need not make those of the other ranks.
    """
    own = getattr(loader, "slices_of_rank", None)
    if distributed.world_size() > 1 and callable(own):
        yield from own(distributed.rank(), distributed.world_size())
        return
    for images, labels in loader:
        yield feed.each(images, distributed.part), distributed.part(labels), len(labels)


def to_float(images: Tensor, normalise: Normalise | None) -> Tensor:
    """Images [B, C, H, W], uint8 or float32 in [0, 1], as float32, normalised if asked."""
    pixels = images.to(torch.float32)
    if images.dtype == torch.uint8:
        pixels = pixels / 255
    if normalise is not None:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in normalise)
        pixels = (pixels - mean) / std
    return pixels


class Split(NamedTuple):
    """The images and labels of one stream, as `TensorLoader` takes them."""

    images: Tensor
    labels: Tensor


def from_tensors(
    name: str,
    train: Split,
    val: Split,
    test: Split,
    *,
    num_classes: int,
    augment: Augment,
    normalise: Normalise,
    batching: Batching,
) -> Data:
    """Make the four streams of a data set whose splits are in memory.

    Only the training stream is augmented; calibration reads the same images without a copy.
    """

    def as_they_are(split: Split) -> TensorLoader:
        return TensorLoader(*split, batch_size=batching.eval_batch_size, normalise=normalise)

    channels, height, width = train.images.shape[1:]
    return Data(
        name=name,
        train=TensorLoader(
            *train,
            batch_size=batching.batch_size,
            shuffle=True,
            augment=augment,
            normalise=normalise,
            seed=batching.seed,
        ),
        calibration=as_they_are(train),
        val=as_they_are(val),
        test=as_they_are(test),
        num_classes=num_classes,
        input_shape=(channels, height, width),
    )
