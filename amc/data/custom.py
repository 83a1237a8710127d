"""Data from a function of the user's own, looked at once before anything is built on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amc.data.loader import Data, Loader
from amc.errors import AmcError
from amc.imports import load_function, one_line

STREAMS = ("train", "val", "test", "calibration")


def load_custom(spec: str, labelled: bool = True) -> Data:
    """Call the function that `spec` names, without arguments, and check what it returns.

    It may return a `Data`, or a tuple (train, val, test[, calibration]) of loaders, such as
    `torch.utils.data.DataLoader`s. Of a tuple, calibration is train if there are only three; the
    number of classes is the highest label of val, test and the first batch of train, plus one
    (all of train may take an hour to read: a function that knows better returns a `Data`).

    Args:
        spec: The function.
        labelled: Targets are labels of classes. If not, they may be any tensors, inputs need not
            be images, and a tuple says nothing of classes.

    Raises:
        AmcError: There is no such function, it failed, or a loader's first batch is not
            images [B, C, H, W] float32 and labels [B] int64 (or inputs and targets, as above).
    """
    try:
        made = load_function(spec)()
    except AmcError:
        raise
    except Exception as error:
        raise AmcError(f"{spec}: calling it failed with {one_line(error)}") from error
    if isinstance(made, Data):
        for name in STREAMS:
            _first_batch(spec, name, getattr(made, name), labelled)
        return made
    if not isinstance(made, (tuple, list)) or len(made) not in (3, 4):
        size = f" of {len(made)}" if isinstance(made, (tuple, list)) else ""
        raise AmcError(
            f"{spec}: returned a {type(made).__name__}{size}, "
            "expected an amc.data.Data or a tuple (train, val, test[, calibration]) of loaders"
        )
    return _from_loaders(spec, dict(zip(STREAMS, made, strict=False)), labelled)


def _from_loaders(spec: str, loaders: dict[str, Any], labelled: bool) -> Data:
    """Check the loaders of a tuple, by stream, and infer what a `Data` says of them."""
    batches = {name: _first_batch(spec, name, one, labelled) for name, one in loaders.items()}
    shapes = {name: list(images.shape[1:]) for name, (images, _) in batches.items()}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            raise AmcError(f"{spec}: {name} has images {shape}, but train {shapes['train']}")
    highest = int(batches["train"][1].max()) if labelled else -1
    for name in ("val", "test") if labelled else ():
        highest = max(highest, *(int(labels.max()) for _, labels in loaders[name]))
    return Data(
        name=spec,
        train=loaders["train"],
        calibration=loaders.get("calibration", loaders["train"]),
        val=loaders["val"],
        test=loaders["test"],
        num_classes=highest + 1,
        input_shape=tuple(shapes["train"]),
    )


def _first_batch(spec: str, name: str, loader: object, labelled: bool) -> tuple[Tensor, Tensor]:
    """The first batch of a loader, if it is one a network can be trained on."""
    if not isinstance(loader, Loader):
        raise AmcError(
            f"{spec}: {name} is a {type(loader).__name__}, "
            "expected a loader with __iter__ and __len__, such as a DataLoader"
        )
    try:
        batch = next(iter(loader), None)
    except Exception as error:
        raise AmcError(f"{spec}: reading {name} failed with {one_line(error)}") from error
    expected = "expected (images [B, C, H, W] float32, labels [B] int64); others need a --task"
    if not labelled:
        expected = "expected (inputs [B, ...] float32, targets [B, ...])"
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        given = "no batch" if batch is None else f"batches of {_form(batch)}"
        raise AmcError(f"{spec}: {name} yields {given}, {expected}")
    images, labels = batch
    if not (
        isinstance(images, Tensor)
        and isinstance(labels, Tensor)
        and images.dtype == torch.float32
        and images.ndim >= 2
        and len(images)
        and labels.shape[:1] == images.shape[:1]
        and (not labelled or _classifies(images, labels))
    ):
        raise AmcError(f"{spec}: {name} yields ({_form(images)}, {_form(labels)}), {expected}")
    return images, labels


def _classifies(images: Tensor, labels: Tensor) -> bool:
    """Whether these are images and the labels of their classes."""
    whole = labels.dtype == torch.int64 and labels.ndim == 1
    return images.ndim == 4 and whole and int(labels.min()) >= 0


def _form(value: object) -> str:
    """What `value` is, in a few words, for an error line."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    least = f" from {int(value.min())}" if value.ndim == 1 and value.numel() else ""
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}{least}"
