"""Pictures with labels, wherever they are kept; parts that are missing are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amc.data.arrays.split import stratified_order
from amc.runtime.errors import AmcError

HELD_OUT = 10  # one in so many training images for val, and for test, where there are none
LOOKED_AT = 8  # pictures of every part, for its digest


class Pictures(Protocol):
    """Pictures by number. An `AmcError` of one that cannot be read names it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Image.Image: ...


@dataclass(frozen=True)
class Labelled:
    """Pictures [N] and their classes [N], with the classes' names where they have any."""

    pictures: Pictures
    labels: NDArray[np.int64]
    classes: tuple[str, ...] = ()

    def of(self, rows: NDArray[np.int64]) -> Labelled:
        """Some of them."""
        return replace(self, pictures=Some(self.pictures, rows), labels=self.labels[rows])


@dataclass(frozen=True)
class Arrays:
    """Pictures of arrays [N, H, W, 3] of bytes."""

    arrays: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int, /) -> Image.Image:
        return Image.fromarray(self.arrays[index])


@dataclass(frozen=True)
class Some:
    """Some pictures of others."""

    pictures: Pictures
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Image.Image:
        return self.pictures[int(self.rows[index])]


def in_parts(found: Mapping[str, Labelled], where: str) -> dict[str, Labelled]:
    """train, val and test: what is missing is held out of train, of every class alike.

    Args:
        found: train, and perhaps val and test.
        where: they come from, for error lines.

    Returns:
        The three, each in an order in which every stretch has all classes.

    Raises:
        AmcError: too few images.
    """
    parts, train = dict(found), found["train"]
    order = stratified_order(train.labels)
    for name in [name for name in ("val", "test") if name not in found]:
        held = len(train.labels) // HELD_OUT
        if not held:
            raise AmcError(
                f"{where}: {len(train.labels)} training images, expected at least {HELD_OUT} to "
                f"hold out {name}"
            )
        rows, order = order[:held], order[held:]
        parts[name] = train.of(rows)
    parts["train"] = train.of(order)
    for name in found.keys() & {"val", "test"}:
        parts[name] = parts[name].of(stratified_order(parts[name].labels))
    return parts


def digest(parts: Mapping[str, Labelled], *further: object) -> str:
    """Eight letters that tell data sets apart: of all labels, a few pictures, and more."""
    found = hashlib.sha256(repr(further).encode())
    for name in ("train", "val", "test"):
        part = parts[name]
        found.update(repr((name, len(part.labels), part.classes)).encode())
        found.update(np.ascontiguousarray(part.labels, np.int64).tobytes())
        for index in range(min(LOOKED_AT, len(part.labels))):
            found.update(np.asarray(part.pictures[index].convert("RGB")).tobytes())
    return found.hexdigest()[:8]
