"""What the streams of a data set must be, and what bad input must be told."""

from __future__ import annotations

import os

import pytest
import torch

from amc.data import Data, Loader
from amc.runtime.errors import AmcError

STREAMS = ("train", "calibration", "val", "test")


def everything(loader):
    """All of a loader's images and labels, each in one tensor."""
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(first, second):
    """Whether two passes are equal bit for bit, batch for batch."""
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def rows(images):
    """Each image as bytes, to look images up in a set."""
    return [image.numpy().tobytes() for image in images]


def refused(call, *parts):
    """The one line `call` is refused with; it must contain every part."""
    with pytest.raises(AmcError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert str(part) in line, line
    return line


def check_streams(data: Data):
    """What holds for every data set."""
    for name in STREAMS:
        loader = getattr(data, name)
        assert isinstance(loader, Loader)
        batches = list(loader)
        assert len(batches) == len(loader)
        for images, labels in batches:
            assert images.dtype == torch.float32 and labels.dtype == torch.int64
            assert images.shape == (len(labels), *data.input_shape)
            assert images.is_contiguous() and bool(images.isfinite().all())
            assert 0 <= int(labels.min()) and int(labels.max()) < data.num_classes
        assert same(loader, batches), f"{name} changes within one epoch"
    train, calibration = everything(data.train)[1], everything(data.calibration)[1]
    assert torch.equal(train.bincount(), calibration.bincount())


class Payload:
    """Unpickled by the ordinary unpickler, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)
