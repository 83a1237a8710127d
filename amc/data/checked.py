"""Loaders of the user's own: every batch is looked at before anything is done with it.

What is wrong with a batch is said of it, in one line, instead of by whatever breaks on it later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from amc.data.loader import Data
from amc.runtime.errors import BrokenCodeError
from amc.runtime.feed import dtype_name, form, holds_numbers
from amc.runtime.user_code import user_code

END = object()


class CheckedLoader:
    """A loader whose batches are all like its first; other attributes are the loader's own.

    Args:
        loader: the user's, which may be any object that can be gone through again and again.
        where: it comes from, for error lines: ``data.py:loaders: train``.
        first: its first batch, (inputs, labels) or (inputs, targets).
        labelled: targets are labels of classes.
        classes: how many there are; None if the labels tell.
        even: batches are joined, so that their inputs must have one size; otherwise inputs of
            other heights and widths are for the network to take or leave.
    """

    def __init__(
        self,
        loader: Any,
        where: str,
        first: tuple[Any, Tensor],
        labelled: bool,
        classes: int | None = None,
        even: bool = False,
    ) -> None:
        self.highest: int | None = None  # of all labels, once they have been read
        self._again = False  # whether it is known that there is a pass after the first
        self._loader, self._where, self._even = loader, where, even
        self._labelled, self._classes = labelled, classes
        leaves, self._structure = tree_flatten(first[0])
        self._forms = [(leaf.dtype, leaf.shape[1:]) for leaf in leaves]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_loader" not in vars(self):  # while it is being copied
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return length(self._loader, self._where)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        promised, number = len(self), 0
        with user_code(f"{self._where} cannot be read:"):
            batches = iter(self._loader)
        while True:
            here = f"{self._where}, batch {number + 1} of {promised}"
            with user_code(f"{here}, cannot be read:"):
                batch = next(batches, END)
            if batch is END:
                break
            number += 1
            if number > promised:
                raise BrokenCodeError(
                    f"{self._where} gives more batches than its length, {promised}"
                )
            yield self._looked_at(batch, here)
        if number < promised:
            raise BrokenCodeError(
                f"{self._where} ends after {number} of {promised} batches; its length must be "
                "true, and every pass over it must begin anew"
            )

    def counted(self, on_batch: Callable[[], None] = lambda: None) -> int:
        """The highest label, after a pass over all batches; -1 without labels."""
        highest = -1
        for _, labels in self:
            highest = max(highest, int(labels.max()) if self._labelled else -1)
            on_batch()
        self.highest = highest
        return highest

    @property
    def counts(self) -> bool:
        """Whether its labels tell how many classes there are."""
        return self._labelled and self._classes is None

    def limit(self, classes: int) -> None:
        """Labels must be below this from now on, unless another limit was given."""
        self._classes = self._classes or (classes if self._labelled else None)

    @property
    def vouched(self) -> bool:
        """Whether nothing has to be read: the labels are known, or its owner says ``checked``."""
        if self.highest is None:
            self.highest = self._known()
            self._again = self.highest is not None
        return self._again or getattr(self._loader, "checked", False) is True

    @property
    def left(self) -> int:
        """How many batches `read_through` reads."""
        return len(self) if self.highest is None else 0

    def read_through(self, on_batch: Callable[[], None] = lambda: None) -> None:
        """Goes through all batches, unless it was done; random generators stay as they are.

        Raises:
            BrokenCodeError: something is wrong with one, or there is no second pass.
        """
        with preserving_random_state(self._loader):
            if self.highest is None:
                self.counted(on_batch)
            with user_code(f"{self._where} cannot be read a second time:"):
                again = next(iter(self._loader), END)
        if again is END:
            raise BrokenCodeError(
                f"{self._where} can be read only once; every pass must begin anew"
            )
        self._again = True

    def _known(self) -> int | None:
        """The highest label, -1 without labels, if the data set tells without reading images."""
        tensors, labels = _in_memory(self._loader), _targets(self._loader)
        if tensors is not None:
            inputs, labels = tensors
            if not all(_finite(x) for x in inputs):
                return None  # reading finds the batch
            if not self._labelled:
                return -1
        if not self._labelled or labels is None or not len(labels):
            return None
        highest, most = int(labels.max()), self._classes
        fine = int(labels.min()) >= 0 and (most is None or highest < most)
        return highest if fine else None

    def _looked_at(self, batch: Any, where: str) -> tuple[Any, Tensor]:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise BrokenCodeError(f"{where} is {form(batch)}, the first one was (inputs, targets)")
        inputs, targets = batch
        leaves, structure = tree_flatten(inputs)
        if structure != self._structure or not all(map(holds_numbers, leaves)):
            raise BrokenCodeError(
                f"{where} has inputs {form(inputs)}, of another make than the first"
            )
        for leaf, (dtype, shape) in zip(leaves, self._forms, strict=True):
            if leaf.dtype != dtype or not self._like(leaf.shape[1:], shape):
                raise BrokenCodeError(
                    f"{where} has images {form(leaf)}, the first one [B, {_sizes(shape)}] "
                    f"{dtype_name(dtype)}"
                )
            if not _finite(leaf, infinite=len(leaves) > 1):
                raise BrokenCodeError(f"{where}: images hold NaN or infinity")
        if not holds_numbers(targets) or any(
            x.shape[:1] != targets.shape[:1] or not len(targets) for x in leaves
        ):
            raise BrokenCodeError(f"{where} has inputs {form(inputs)} and targets {form(targets)}")
        ours = torch.is_inference_mode_enabled()  # evaluation makes whatever is made within it so
        if not ours and any(x.is_inference() for x in (*leaves, targets)):
            raise BrokenCodeError(f"{where} is made in inference mode, which no training can use")
        if self._labelled:
            self._check_labels(targets, where)
        return inputs, targets

    def _like(self, shape: torch.Size, first: torch.Size) -> bool:
        if self._even or len(shape) < 2:
            return shape == first
        return len(shape) == len(first) and shape[0] == first[0]

    def _check_labels(self, labels: Tensor, where: str) -> None:
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise BrokenCodeError(f"{where} has labels {form(labels)}, expected [B] int64")
        low, high = int(labels.min()), int(labels.max())
        most = self._classes
        if low < 0 or (most is not None and high >= most):
            wrong, end = (low if low < 0 else high), "" if most is None else f" to {most - 1}"
            raise BrokenCodeError(f"{where} has the label {wrong}, expected 0{end or ' or more'}")


def unchecked(data: Data) -> list[CheckedLoader]:
    """The streams that have to be read before it is known that nothing is wrong with them."""
    streams = {id(one): one for one in _watched(data)}
    return [one for one in streams.values() if not one.vouched]


def with_classes(data: Data) -> Data:
    """Data with as many classes as there are labels, where nothing else has said so."""
    streams = _watched(data)
    highest = max((one.highest for one in streams if one.highest is not None), default=-1)
    counted = any(one.counts for one in streams)
    classes = max(data.num_classes, highest + 1) if counted else data.num_classes
    for one in streams:
        one.limit(classes)
    return replace(data, num_classes=classes)


def _watched(data: Data) -> list[CheckedLoader]:
    streams = (data.train, data.val, data.test, data.calibration)
    return [one for one in streams if isinstance(one, CheckedLoader)]


def length(loader: Any, where: str) -> int:
    """The number of batches that a loader promises.

    Raises:
        BrokenCodeError: it cannot tell, or there are none.
    """
    with user_code(f"{where} has no length:"):
        promised = len(loader)
    if promised < 1:
        raise BrokenCodeError(f"{where} is empty")
    return promised


@contextmanager
def preserving_random_state(loader: Any = None) -> Iterator[None]:
    """Random generators go on afterwards as if nothing had been drawn inside.

    Those of Python, numpy and torch, and a loader's own. So what is drawn later does not depend on
    whether the data were looked at.
    """
    own = [getattr(loader, "generator", None)]
    own.append(getattr(getattr(loader, "sampler", None), "generator", None))
    states = [(g, g.get_state()) for g in own if isinstance(g, torch.Generator)]
    python, numpy, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torchs)
        for generator, state in states:
            generator.set_state(state)


def _finite(tensor: Tensor, infinite: bool = False) -> bool:
    """Whether there is no NaN in it, nor infinity unless that is allowed (masks hold it)."""
    if not tensor.is_floating_point():
        return True
    if infinite:
        return not bool(tensor.isnan().any())
    # the sum takes a fifth of the time; it may overflow where all is well
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _in_memory(loader: Any) -> tuple[list[Tensor], Tensor] | None:
    """The inputs and targets of a plain loader over tensors."""
    dataset, rows = _dataset(loader)
    if type(dataset) is not TensorDataset or len(dataset.tensors) != 2:
        return None
    inputs, targets = dataset.tensors if rows is None else [x[rows] for x in dataset.tensors]
    return [inputs], targets


def _targets(loader: Any) -> Tensor | None:
    """The labels of a loader over a data set such as torchvision's, which has them apart."""
    dataset, rows = _dataset(loader)
    if dataset is None or getattr(dataset, "target_transform", None) is not None:
        return None
    try:
        labels = torch.as_tensor(getattr(dataset, "targets", None))
    except (TypeError, ValueError, RuntimeError):
        return None
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        return None
    if len(labels) != _size(dataset):  # they are those of something else
        return None
    return labels if rows is None else labels[rows]


def _dataset(loader: Any) -> tuple[Dataset[Any] | None, Any]:
    """The data set whose samples a loader gives as they are, and which of them; None: all."""
    if type(loader) is not DataLoader or loader.collate_fn is not default_collate:
        return None, None
    dataset, rows = loader.dataset, None
    if type(dataset) is Subset:
        subset: Any = dataset
        dataset, rows = subset.dataset, _rows(subset)
        if rows is None:
            return None, None
    return dataset, rows


def _rows(subset: Any) -> Tensor | None:
    """Which samples a subset takes; None where some cannot be taken, which reading tells."""
    try:
        rows = torch.as_tensor(subset.indices)
    except (TypeError, ValueError, RuntimeError):
        return None
    size = _size(subset.dataset)
    fine = rows.dtype == torch.int64 and rows.ndim == 1 and bool((rows < size).all())
    return rows if fine and bool((rows >= -size).all()) else None


def _size(dataset: Any) -> int:
    try:
        return len(dataset)
    except Exception:  # code of the user's own
        return -1


def _sizes(shape: torch.Size) -> str:
    return ", ".join(map(str, shape))
