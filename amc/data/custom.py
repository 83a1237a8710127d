"""Data from a function of the user's own, looked at once before anything is built on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from amc.data.checked import CheckedLoader, length
from amc.data.loader import Data, Loader
from amc.runtime import feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed, holds_numbers
from amc.runtime.user_code import load_function, user_code

STREAMS = ("train", "val", "test", "calibration")
TYPES = (torch.float32, torch.int64, torch.int32, torch.bool)
"""What inputs may be made of."""


def load_custom(spec: str, labelled: bool = True) -> Data:
    """Call the function that `spec` names, without arguments, and check what it returns.

    It may return a `Data`, or a tuple (train, val, test[, calibration]) of loaders, such as
    `torch.utils.data.DataLoader`s. Of a tuple, calibration is train if there are only three; the
    number of classes is the highest label of val, test and the first batch of train, plus one;
    `checked` also looks at all of train, which may take long.

    Args:
        spec: The function.
        labelled: Targets are labels of classes. If not, they may be any tensors, and a tuple says
            nothing of classes.

    Raises:
        AmcError: There is no such function, it failed, or a loader's first batch is not inputs
            and labels [B] int64 (or targets, as above). Inputs are images [B, C, H, W] float32, or
            what else networks are fed with, see `Feed`: of `TYPES`, the batch first.
    """
    with user_code(f"{spec}: calling it failed with"):
        made = load_function(spec)()
    if isinstance(made, Data):
        loaders = {name: getattr(made, name) for name in STREAMS}
        batches = {name: _first_batch(spec, name, one, labelled) for name, one in loaders.items()}
        _check_facts(spec, made, batches["train"][0])
        watched = _watched(spec, loaders, batches, labelled, made.num_classes or None)
        example = None if _plain(batches["train"][0]) else _few(batches["train"][0])
        streams: dict[str, Any] = dict(watched)
        return replace(made, **streams, example=example)
    if not isinstance(made, (tuple, list)) or len(made) not in (3, 4):
        size = f" of {len(made)}" if isinstance(made, (tuple, list)) else ""
        raise AmcError(
            f"{spec}: returned a {type(made).__name__}{size}, "
            "expected an amc.data.Data or a tuple (train, val, test[, calibration]) of loaders"
        )
    return from_loaders(spec, dict(zip(STREAMS, made, strict=False)), labelled)


def from_loaders(spec: str, loaders: dict[str, Any], labelled: bool = True) -> Data:
    """Check loaders, by stream, and infer what a `Data` says of them.

    Args:
        spec: What mistakes are said of.
        loaders: train, val, test, and perhaps calibration; see `load_custom`.
        labelled: Targets are labels of classes.

    Raises:
        AmcError: A loader's first batch is of no use.
    """
    batches = {name: _first_batch(spec, name, one, labelled) for name, one in loaders.items()}
    shapes = {name: feed.forms(inputs) for name, (inputs, _) in batches.items()}
    for name, (inputs, _) in batches.items():
        if _forms(inputs) != _forms(batches["train"][0]):
            ours, theirs = (_shown(shapes[one]) for one in (name, "train"))
            raise AmcError(f"{spec}: {name} has images {ours}, but train {theirs}")
    loaders.setdefault("calibration", loaders["train"])
    batches.setdefault("calibration", batches["train"])
    watched = _watched(spec, loaders, batches, labelled)
    highest = int(batches["train"][1].max()) if labelled else -1
    for name in ("val", "test") if labelled else ():
        highest = max(highest, watched[name].counted())
    return Data(
        name=spec,
        train=watched["train"],
        calibration=watched["calibration"],
        val=watched["val"],
        test=watched["test"],
        num_classes=highest + 1,
        input_shape=shapes["train"],
        example=None if _plain(batches["train"][0]) else _few(batches["train"][0]),
    )


def _watched(
    spec: str,
    loaders: dict[str, Any],
    batches: dict[str, tuple[Feed, Tensor]],
    labelled: bool,
    classes: int | None = None,
) -> dict[str, CheckedLoader]:
    """The streams, looked at from now on; a loader of two streams is one as before."""
    joined = {id(loaders["val"]), id(loaders["calibration"])}
    made: dict[int, CheckedLoader] = {}
    for name, loader in loaders.items():
        even, where = id(loader) in joined, f"{spec}: {name}"
        one = CheckedLoader(
            loader, where, batches[name], labelled, classes if labelled else None, even
        )
        made.setdefault(id(loader), one)
    return {name: made[id(loader)] for name, loader in loaders.items()}


def _check_facts(spec: str, data: Data, inputs: Feed) -> None:
    """Refuses what a `Data` says of itself and is not so."""
    if not isinstance(data.num_classes, int) or data.num_classes < 0:
        raise AmcError(f"{spec}: num_classes is {data.num_classes!r}, expected 0 or more")
    shape, found = data.input_shape, feed.leaves(inputs)[0].shape[1:]
    if _plain(inputs) and (not isinstance(shape, tuple) or shape[:1] != found[:1]):
        given = list(shape) if isinstance(shape, tuple) else shape
        raise AmcError(f"{spec}: input_shape is {given}, but train has images {list(found)}")


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
            "expected a loader with __iter__ and __len__, such as a DataLoader, that can be read "
            "again and again"
        )
    with user_code(f"{spec}: reading {name} failed with"):
        passing: Any = iter(loader)
        batch = next(passing, None)
    if passing is loader:
        raise AmcError(f"{spec}: {name} can be read only once; every pass must begin anew")
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
        holds_numbers(labels)
        and labels.ndim
        and len(labels)
        and _fits(inputs, labels)
        and (not labelled or _classifies(inputs, labels))
    ):
        raise AmcError(f"{spec}: {name} yields ({_form(inputs)}, {_form(labels)}), {expected}")
    length(loader, f"{spec}: {name}")
    return inputs, labels


def _fits(inputs: Any, labels: Tensor) -> bool:
    """Whether a network can be fed with these, one sample for each label."""
    tensors = feed.leaves(inputs)
    named = not isinstance(inputs, dict) or all(isinstance(key, str) for key in inputs)
    return (
        bool(tensors)
        and named
        and all(
            holds_numbers(one) and one.dtype in TYPES and one.shape[:1] == labels.shape[:1]
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
