"""What a network is traced with when nothing runs: inputs of the right shape, and no weights."""

import math
import re
from typing import Any, Protocol

import torch
from torch import Tensor

from amc.data import load_data
from amc.models.catalog import expected, facts, is_bundled
from amc.runtime import feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.tasks.task import load_task

LARGEST = 10**9
"""Numbers in a batch that a network is traced with; a machine of little memory says so earlier."""


class Described(Protocol):
    """Settings that say what a network is fed with."""

    @property
    def model(self) -> str:
        """A bundled network, or module:function."""

    @property
    def data(self) -> str | None:
        """Data that it is fed with."""

    @property
    def task(self) -> str:
        """What it is for."""

    @property
    def input_shape(self) -> str | None:
        """Sizes of an image, without data."""

    @property
    def num_classes(self) -> int | None:
        """Outputs, without data."""

    @property
    def batch(self) -> int:
        """Images in a batch."""


def images(config: Described) -> tuple[Any, int, Feed]:
    """Shape of an image (see `feed.forms`), number of classes, inputs to trace with."""
    if config.data is not None:
        if config.input_shape or config.num_classes:
            raise AmcError("--data says it all: leave --input-shape and --num-classes out")
        data = load_data(
            config.data,
            labelled=load_task(config.task).classifies,
            preprocessing=expected([config.model]),
        )
        if data.example is None:
            return data.input_shape, data.num_classes, blank(config.batch, data.input_shape)
        known = feed.samples(data.example)
        repeated = torch.arange(config.batch) % known
        return data.input_shape, data.num_classes, feed.each(data.example, lambda x: x[repeated])
    bundled, about = is_bundled(config.model), facts(config.model)
    usual = f"{about.channels}x224x224" if about else "3x224x224"
    if about and about.preprocessing:
        usual = "x".join(map(str, about.preprocessing.shape))
    text = config.input_shape or ("1x16x16" if bundled else usual)
    sides = re.split(r"[x,]", text.replace(" ", ""))
    if not all(re.fullmatch(r"[1-9]\d{0,5}", side) for side in sides):
        raise AmcError(f"--input-shape {text!r}: expected sizes such as 3x224x224 or 3,224,224")
    shape = tuple(map(int, sides))
    own = about.classes if about else 0
    classes = config.num_classes or own or (10 if bundled else 1000)
    return shape, classes, blank(config.batch, shape)


def blank(batch: int, shape: tuple[int, ...]) -> Tensor:
    """An empty batch."""
    sizes = "x".join(map(str, shape))
    if batch * math.prod(shape) > LARGEST:
        raise AmcError(
            f"--batch {batch} of {sizes} does not fit into memory: at most {LARGEST:,} numbers"
        )
    try:
        return torch.zeros(batch, *shape)
    except RuntimeError:  # torch has no type of its own for this
        raise AmcError(f"--batch {batch} of {sizes} does not fit into memory") from None
