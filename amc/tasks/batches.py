"""Parts of a stream of batches."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from amc.runtime import feed
from amc.runtime.feed import Feed


def head(
    batches: Iterable[tuple[Feed, Tensor]], images: int, size: int
) -> list[tuple[Feed, Tensor]]:
    """The first ``images`` images, in memory, in even batches of ``size`` at most."""
    parts: list[tuple[Feed, Tensor]] = []
    found = 0
    for inputs, labels in batches:
        few = slice(images - found)
        parts.append((feed.rows(inputs, few), labels[few]))
        found += len(parts[-1][1])
        if found >= images:
            break
    if not parts:
        return []
    every, labels = feed.joined([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    count = math.ceil(len(labels) / size)
    evenly = feed.parted(every, lambda x: x.tensor_split(count))
    return list(zip(evenly, labels.tensor_split(count), strict=True))


def tail(batches: Iterable[tuple[Feed, Tensor]], images: int) -> Iterator[tuple[Feed, Tensor]]:
    """Everything but the first ``images`` images."""
    for inputs, labels in batches:
        if images < len(labels):
            rest = slice(images, None)
            yield feed.rows(inputs, rest), labels[rest]
        images = max(0, images - len(labels))
