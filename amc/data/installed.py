"""Data sets of other packages, as four streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
import torch
from numpy.typing import NDArray

from amc.data.arrays.augment import both, random_flip, random_shift
from amc.data.arrays.pictures import Arrays, Labelled, digest, in_parts
from amc.data.arrays.preprocessing import GREY, Preprocessing
from amc.data.cifar import FOLDERS, read_cifar
from amc.data.images import ImageLoader
from amc.data.loader import Batching, Data, Split, from_tensors
from amc.data.packages.hf_data import open_hf
from amc.data.packages.torchvision_data import CIFAR, TURNED, cifar_folder, open_torchvision
from amc.runtime.names import PictureSettings

SMALL = 96  # pixels of a side: where all images are of one such size, they stay in memory as it is
SHIFT = 8  # and are moved by up to one in so many pixels

Parts = dict[str, Labelled]


def load_installed(
    kind: str, given: PictureSettings, batching: Batching, wanted: Preprocessing | None
) -> Data:
    """The data set of another package; parts that it does not have are held out of training.

    Images have the size that the settings, or else the network, ask for. Where nobody asks, small
    ones that are all of one size keep it; others become 224 x 224.

    Args:
        kind: ``hf`` or ``torchvision``.
        given: what follows it.
        batching: how to cut the streams.
        wanted: what the network expects, where it says so.

    Raises:
        AmcError: it cannot be read; the message says what would help.
    """
    where = f"{kind}:{given.name}"
    if kind == "hf":
        parts = in_parts(open_hf(given), where)
    elif given.name in CIFAR:
        parts = in_parts(_cifar(given), where)
    else:
        parts = in_parts(open_torchvision(given), where)
    names = parts["train"].classes
    classes = len(names) or 1 + max(int(part.labels.max()) for part in parts.values())
    shown = _shown(given, parts["train"], wanted)
    outputs = shown.outputs(names) if names else np.arange(classes)
    parts = {part: replace(x, labels=outputs[x.labels]) for part, x in parts.items()}
    flip = given.name not in TURNED if given.flip is None else given.flip
    asked = wanted is not None or given.side is not None or given.crop is not None
    streams = _Streams(f"{kind}:{PurePath(given.name).name}", parts, classes, shown, flip)
    pixels = None if asked else _pixels(parts, shown.channels)
    if pixels is not None:
        return streams.in_memory(pixels, batching)
    return streams.decoded(batching, given.workers)


def _cifar(given: PictureSettings) -> Parts:
    """CIFAR by the reader that runs nothing: it is published as pickles."""
    name = given.name.lower()
    train, test = read_cifar(name, cifar_folder(given, FOLDERS[name]))
    return {
        part: Labelled(Arrays(images.transpose(0, 2, 3, 1)), labels)
        for part, (images, labels) in (("train", train), ("test", test))
    }


def _shown(given: PictureSettings, train: Labelled, wanted: Preprocessing | None) -> Preprocessing:
    """How images are made, as the settings, the network or nobody says."""
    shown = wanted or Preprocessing()
    if wanted is None and train.pictures[0].mode in ("1", "L", "LA", "I", "I;16", "F"):
        shown = replace(shown, mean=GREY[0], std=GREY[1])
    if given.side is not None:
        shown = replace(shown, side=given.side)
    return shown if given.crop is None else replace(shown, crop=given.crop, squash=False)


def _pixels(parts: Parts, channels: int) -> dict[str, NDArray[np.uint8]] | None:
    """All images [N, C, H, W] of the parts, if they are small and of one size."""
    size, found = parts["train"].pictures[0].size, dict[str, NDArray[np.uint8]]()
    if max(size) > SMALL:
        return None
    for name, part in parts.items():
        pixels = np.empty((len(part.labels), channels, size[1], size[0]), np.uint8)
        for index in range(len(pixels)):
            picture = part.pictures[index]
            if picture.size != size:
                return None
            image = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
            pixels[index] = image.reshape(*image.shape[:2], channels).transpose(2, 0, 1)
        found[name] = pixels
    return found


@dataclass(frozen=True)
class _Streams:
    """What a `Data` is made of."""

    name: str
    parts: Parts
    classes: int
    shown: Preprocessing
    flip: bool

    def in_memory(self, pixels: Mapping[str, NDArray[np.uint8]], batching: Batching) -> Data:
        """Images as they are, moved a little for training."""
        height, width = pixels["train"].shape[2:]
        shift = random_shift(max(1, min(height, width) // SHIFT))
        train, val, test = (
            Split(torch.from_numpy(pixels[part]), torch.from_numpy(self.parts[part].labels))
            for part in ("train", "val", "test")
        )
        data = from_tensors(
            self._unique("as they are"),
            train,
            val,
            test,
            num_classes=self.classes,
            augment=both(shift, random_flip) if self.flip else shift,
            normalise=self.shown.normalise,
            batching=batching,
        )
        return replace(data, prepared=f"as they are, {self.shown.numbers}")

    def decoded(self, batching: Batching, workers: int) -> Data:
        """Images decoded batch by batch, random parts of them for training."""

        def stream(part: str, train: bool = False) -> ImageLoader:
            return ImageLoader(
                self.parts[part].pictures,
                self.parts[part].labels.tolist(),
                preprocessing=self.shown,
                batch_size=batching.batch_size if train else batching.eval_batch_size,
                augment=train,
                flip=self.flip,
                workers=workers,
                seed=batching.seed,
            )

        return Data(
            name=self._unique(self.shown),
            train=stream("train", train=True),
            calibration=stream("train"),
            val=stream("val"),
            test=stream("test"),
            num_classes=self.classes,
            input_shape=self.shown.shape,
            prepared=str(self.shown),
        )

    def _unique(self, how: object) -> str:
        """No two data sets have one name, since weights that are kept go by it."""
        return f"{self.name}-{digest(self.parts, how, self.flip)}"
