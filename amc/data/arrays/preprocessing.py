"""From a picture to the numbers that a network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Normalise = tuple[Sequence[float], Sequence[float]]  # mean and std of each channel, in [0, 1]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as usual
GREY = (0.449,), (0.226,)  # their means, for networks that take one channel
Resampling = Image.Resampling


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its images, and what it calls its classes.

    Attributes:
        side: height and width in pixels.
        crop: side of the central square that is shown, as a part of the image's shorter side. 1
            is the largest; 0.875 is what resizing to 256 and cropping the centre of 224 shows.
        squash: show the whole image instead, whatever its proportions.
        mean: subtracted from each channel, which is in [0, 1] before; one number a channel.
        std: what each channel is divided by.
        resampling: how pictures are resized.
        blue_first: channels are blue, green and red.
        labels: names of the classes in the order of the network's outputs, where it has them.
        source: whose facts these are; empty: the usual ones.
    """

    side: int = 224
    crop: float = 1.0
    squash: bool = False
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resampling: Resampling = Resampling.BILINEAR
    blue_first: bool = False
    labels: tuple[str, ...] = ()
    source: str = ""

    @property
    def channels(self) -> int:
        """Of the images: 1 or 3."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.side, self.side

    @property
    def normalise(self) -> Normalise:
        """As loaders take it."""
        return self.mean, self.std

    def centre(self, width: int, height: int) -> Box:
        """What is shown of an image: resizing and cropping its centre, in one."""
        if self.squash:
            return 0, 0, width, height
        short = min(width, height) * self.crop
        left, top = (width - short) / 2, (height - short) / 2
        return left, top, left + short, top + short

    def pixels(self, picture: Image.Image, box: Box) -> NDArray[np.uint8]:
        """What is in a box of a picture, [side, side, channels]."""
        image = picture.convert("L" if self.channels == 1 else "RGB")
        image = image.resize((self.side, self.side), self.resampling, box=box)
        found = np.asarray(image).reshape(self.side, self.side, self.channels)
        return found[:, :, ::-1] if self.blue_first else found

    def named(self, labels: tuple[str, ...]) -> Preprocessing:
        """With names of the classes."""
        return replace(self, labels=labels)

    def outputs(self, classes: tuple[str, ...]) -> NDArray[np.int64]:
        """The network's output of each class of the data: [classes].

        The same order, unless the network has the same classes by name in another one.
        """
        if self.labels != classes and sorted(self.labels) == sorted(classes):
            return np.array([self.labels.index(name) for name in classes])
        return np.arange(len(classes))

    def __str__(self) -> str:
        """For a person, in a line."""
        shown = "all of it" if self.squash else "the central square"
        if not self.squash and self.crop != 1:
            shown += f", {self.crop:.3g} of the shorter side"
        order = ", blue first" if self.blue_first else ""
        return (
            f"{self.side}x{self.side} of {shown}, {self.resampling.name.lower()}{order}, "
            f"{self.numbers}{f'; as {self.source} says' if self.source else ''}"
        )

    @property
    def numbers(self) -> str:
        """Mean and deviation, for a person."""
        mean, std = (f"({', '.join(f'{x:.4g}' for x in v)})" for v in (self.mean, self.std))
        return f"mean {mean}, std {std}"
