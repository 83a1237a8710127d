"""Data from a function of the user's own, looked at once before anything is built on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from amc import feed
from amc.data.loader import Data, Loader
from amc.errors import AmcError
from amc.feed import Feed
from amc.imports import load_function, one_line

STREAMS = ("train", "val", "test", "calibration")
TYPES = (torch.float32, torch.int64, torch.int32, torch.bool)
"""What inputs may be made of."""


def load_custom(spec: str, labelled: bool = True) -> Data:
    """Call the function that `spec` names, without arguments, and check what it returns.

    It may return a `Data`, or a tuple (train, val, test[, calibration]) of loaders, such as
    `torch.utils.data.DataLoader`s. Of a tuple, calibration is train if there are only three; the
    number of classes is the highest label of val, test and the first batch of train, plus one
    (all of train may take an hour to read: a function that knows better returns a `Data`).

    Args:
        spec: The function.
        labelled: Targets are labels of classes. If not, they may be any tensors, and a tuple says
            nothing of classes.

    Raises:
        AmcError: There is no such function, it failed, or a loader's first batch is not inputs
            and labels [B] int64 (or targets, as above). Inputs are images [B, C, H, W] float32, or
            what else networks are fed with, see `Feed`: of `TYPES`, the batch first.
    """
    try:
        made = load_function(spec)()
    except AmcError:
        raise
    except Exception as error:
        raise AmcError(f"{spec}: calling it failed with {one_line(error)}") from error
    if isinstance(made, Data):
        for name in STREAMS:
            inputs, _ = _first_batch(spec, name, getattr(made, name), labelled)
        return made if _plain(inputs) else replace(made, example=_few(inputs))
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
    shapes = {name: feed.forms(inputs) for name, (inputs, _) in batches.items()}
    for name, (inputs, _) in batches.items():
        if _forms(inputs) != _forms(batches["train"][0]):
            ours, theirs = (_shown(shapes[one]) for one in (name, "train"))
            raise AmcError(f"{spec}: {name} has images {ours}, but train {theirs}")
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
        input_shape=shapes["train"],
        example=None if _plain(batches["train"][0]) else _few(batches["train"][0]),
    )


def _plain(inputs: Feed) -> bool:
    """Whether these are nothing but images, which an empty batch of their shape stands for."""
    return isinstance(inputs, Tensor) and inputs.is_floating_point()


def _few(inputs: Feed) -> Feed:
    return feed.rows(inputs, slice(2))


def _forms(inputs: Feed) -> Any:
    """What batches of all streams must have in common: arguments and shapes."""
    args, kwargs = feed.arguments(inputs)
    return [feed.forms(one) for one in args], feed.forms(kwargs)


def _shown(shape: Any) -> str:
    """What `feed.forms` gives, as the shape of a tensor or in words."""
    one = isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)
    return str(list(shape)) if one else feed.in_words(shape)


def _first_batch(spec: str, name: str, loader: object, labelled: bool) -> tuple[Feed, Tensor]:
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
    expected = (
        "expected (images [B, C, H, W] float32, labels [B] int64), instead of images also tensors "
        "[B, ...] float32, int64 or bool, several of them in a tuple or dict; others need a --task"
    )
    if not labelled:
        expected = (
            "expected (inputs [B, ...] float32, int64 or bool, several of them in a tuple or "
            "dict, targets [B, ...])"
        )
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        given = "no batch" if batch is None else f"batches of {_form(batch)}"
        raise AmcError(f"{spec}: {name} yields {given}, {expected}")
    inputs, labels = batch
    if not (
        isinstance(labels, Tensor)
        and labels.ndim
        and len(labels)
        and _fits(inputs, labels)
        and (not labelled or _classifies(inputs, labels))
    ):
        raise AmcError(f"{spec}: {name} yields ({_form(inputs)}, {_form(labels)}), {expected}")
    return inputs, labels


def _fits(inputs: Any, labels: Tensor) -> bool:
    """Whether a network can be fed with these, one sample for each label."""
    tensors = feed.leaves(inputs)
    named = not isinstance(inputs, dict) or all(isinstance(key, str) for key in inputs)
    return (
        bool(tensors)
        and named
        and all(
            isinstance(one, Tensor) and one.dtype in TYPES and one.shape[:1] == labels.shape[:1]
            for one in tensors
        )
    )


def _classifies(inputs: Feed, labels: Tensor) -> bool:
    """Whether these are labels of classes, and the inputs images where there is one alone."""
    images = not _plain(inputs) or feed.leaves(inputs)[0].ndim > 2
    return images and labels.dtype == torch.int64 and labels.ndim == 1 and int(labels.min()) >= 0


def _form(value: object) -> str:
    """What `value` is, in a few words, for an error line."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_form, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_form(part)}' for key, part in value.items())}}}"
    if not isinstance(value, Tensor):
        return type(value).__name__
    least = f" from {int(value.min())}" if value.ndim == 1 and value.numel() else ""
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}{least}"
