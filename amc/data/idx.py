"""MNIST, Fashion-MNIST, EMNIST, KMNIST and others in their form, from a folder of IDX files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from amc.data.arrays.augment import both, random_flip, random_shift
from amc.data.arrays.idx_files import IdxSet, find_set, read_images, read_labels
from amc.data.arrays.preprocessing import Normalise
from amc.data.arrays.split import stratified_order
from amc.data.loader import Batching, Data, Split, from_tensors
from amc.runtime.errors import AmcError
from amc.runtime.names import IdxSettings

HELD_OUT = 10  # one in so many of the training images is for val
SHIFT = 2  # pixels, either way
PUBLISHED = {"16d82e2b505296aa": "fashion-mnist"}
"""Training images by the digest of their numbers: known wherever the folder is and what it is
called."""

Bytes = NDArray[np.uint8]


def load_idx(given: IdxSettings, batching: Batching) -> Data:
    """Read a folder of IDX files; the published test set is test, val is held out of training.

    Classes are labels minus the lowest one of the training images. Every channel has the mean of
    the training images subtracted and is divided by their deviation.

    Args:
        given: The folder, which of its data sets, and how much of it.
        batching: How to cut the streams.

    Raises:
        AmcError: A file is missing or damaged, or the files do not fit together.
    """
    found = find_set(given.path, given.set)
    images, labels = _part(found, "train")
    test_images, test_labels = _part(found, "test")
    if images.shape[1:] != test_images.shape[1:]:
        raise AmcError(
            f"{found.files['test-images']}: images {list(test_images.shape[1:])}, "
            f"those for training {list(images.shape[1:])}"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if not lowest <= test_labels.min() <= test_labels.max() <= highest:
        raise AmcError(
            f"{found.files['test-labels']}: labels {test_labels.min()} to {test_labels.max()}, "
            f"those for training {lowest} to {highest}"
        )

    held = len(images) // HELD_OUT
    left = len(images) - held
    if not held:
        raise AmcError(
            f"{found.files['train-images']}: {len(images)} images, expected at least {HELD_OUT}"
        )
    if given.train is not None and given.train > left:
        raise AmcError(f"idx:{given.path}: train={given.train} given, at most {left} are there")
    val, train = np.split(stratified_order(labels), [held])

    def split(images: Bytes, labels: Bytes) -> Split:
        return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64) - lowest))

    used = train[: given.train]
    shift = random_shift(SHIFT)
    return from_tensors(
        _name(found, images, labels, given),
        train=split(images[used], labels[used]),
        val=split(images[val], labels[val]),
        test=split(test_images, test_labels),
        num_classes=highest - lowest + 1,
        augment=both(shift, random_flip) if given.flip else shift,
        normalise=_moments(images[train]),
        batching=batching,
    )


def _part(found: IdxSet, part: str) -> tuple[Bytes, Bytes]:
    """Images [N, C, H, W] and labels [N] of one part."""
    images = read_images(found.files[f"{part}-images"])
    labels = read_labels(found.files[f"{part}-labels"], len(images))
    # EMNIST's images are written column by column.
    turned = images.swapaxes(2, 3) if found.name.startswith("emnist") else images
    return np.ascontiguousarray(turned), labels


def _moments(images: Bytes) -> Normalise:
    """Mean and deviation of every channel, in [0, 1]; exact, from how often each number is."""
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        deviation = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
        deviations.append(deviation or 1.0)  # one colour only
    return means, deviations


def _name(found: IdxSet, images: Bytes, labels: Bytes, given: IdxSettings) -> str:
    """What reports call the data, and the weights trained on it go by: no two sets have one name.

    Published sets have theirs. Others have their folder's, or what their files' names begin with,
    and a digest of their content.
    """
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
    name = PUBLISHED.get(digest) or f"{found.name or _folder(given.path)}-{digest[:8]}"
    subset = "" if given.train is None else f"-{given.train}"
    return f"{name}{subset}{'-flip' if given.flip else ''}"


def _folder(path: Path) -> str:
    """The name of a folder, or of the one it is in where it is called as its kind of files."""
    path = path.resolve()
    kinds = ("raw", "gzip")
    return (path.parent if path.name.lower() in kinds else path).name.lower()
