"""CIFAR-10 and CIFAR-100 from the files their authors publish, without running what is in them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amc.data.arrays.augment import both, random_flip, random_shift
from amc.data.arrays.preprocessing import Normalise
from amc.data.arrays.split import stratified_order
from amc.data.loader import Batching, Data, Split, from_tensors
from amc.runtime.errors import AmcError

VAL_SIZE = 5_000
PIXELS = (3, 32, 32)
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class _Published:
    """What distinguishes the two data sets."""

    folder: str
    train_files: tuple[str, ...]
    test_file: str
    labels_key: bytes
    num_classes: int
    normalise: Normalise


_PUBLISHED = {
    "cifar10": _Published(
        folder="cifar-10-batches-py",
        train_files=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test_file="test_batch",
        labels_key=b"labels",
        num_classes=10,
        normalise=((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": _Published(
        folder="cifar-100-python",
        train_files=("train",),
        test_file="test",
        labels_key=b"fine_labels",
        num_classes=100,
        normalise=((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
}

FOLDERS = {name: published.folder for name, published in _PUBLISHED.items()}
"""What the unpacked folders are called."""


def load_cifar(name: str, path: Path, batching: Batching, *, val_size: int = VAL_SIZE) -> Data:
    """Read `cifar10` or `cifar100`; `val_size` of the training images become val.

    Args:
        name: Which of the two.
        path: The folder with the batch files, or the folder that holds it under its own name.
        batching: How to cut the streams.
        val_size: Images held out, in the same proportion of every class.

    Raises:
        AmcError: A file is missing, is not such a batch, or asks to run code.
    """
    published = _PUBLISHED[name]
    (images, labels), test = read_cifar(name, path)
    if len(images) <= val_size:
        raise AmcError(
            f"{name}:{path}: {len(images)} training images, "
            f"expected more than the {val_size} to be held out"
        )
    val, train = np.split(stratified_order(labels), [val_size])
    return from_tensors(
        name,
        train=_split(images[train], labels[train]),
        val=_split(images[val], labels[val]),
        test=_split(*test),
        num_classes=published.num_classes,
        augment=both(random_shift(4), random_flip),
        normalise=published.normalise,
        batching=batching,
    )


def read_cifar(name: str, path: Path) -> tuple[Arrays, Arrays]:
    """Images [N, 3, 32, 32] and classes [N], for training and for the test.

    Raises:
        AmcError: see `load_cifar`.
    """
    published = _PUBLISHED[name]
    folder = path / published.folder if (path / published.folder).is_dir() else path
    files = [folder / file for file in (*published.train_files, published.test_file)]
    for file in files:
        if not file.is_file():
            raise AmcError(
                f"{name}:{path}: no file {file}; expected the unpacked folder {published.folder} "
                f"or its parent, with {', '.join(file.name for file in files)}"
            )
    *train, test = [_read_batch(file, published) for file in files]
    images = np.concatenate([pixels for pixels, _ in train])
    return (images, np.concatenate([classes for _, classes in train])), test


def _split(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _read_batch(path: Path, published: _Published) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One file's images [N, 3, 32, 32] and labels [N]."""
    try:
        with path.open("rb") as file:
            batch = _BatchUnpickler(file, encoding="bytes").load()
    except AmcError as error:
        raise AmcError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise any exception whatever
        raise AmcError(
            f"{path}: cannot be read ({type(error).__name__}), expected a CIFAR batch in the "
            "Python version of the download"
        ) from error

    batch = batch if isinstance(batch, dict) else {}
    images, labels = batch.get(b"data"), batch.get(published.labels_key)
    width = int(np.prod(PIXELS))
    if not (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.ndim == 2
        and images.shape[1] == width
        and len(images)
    ):
        raise AmcError(f"{path}: b'data' is {_form(images)}, expected uint8 [N, {width}]")
    if not (
        isinstance(labels, list)
        and len(labels) == len(images)
        and all(type(label) is int and 0 <= label < published.num_classes for label in labels)
    ):
        raise AmcError(
            f"{path}: {published.labels_key!r} is {_form(labels)}, expected a list of "
            f"{len(images)} integers from 0 to {published.num_classes - 1}"
        )
    return images.reshape(-1, *PIXELS), np.array(labels, np.int64)


def _form(value: object) -> str:
    """What `value` is, in a few words, for an error line."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, list):
        numbers = [item for item in value if type(item) is int]
        span = f" from {min(numbers)} to {max(numbers)}" if numbers else ""
        return f"a list of {len(value)}, {len(numbers)} of them integers{span}"
    return "missing" if value is None else f"a {type(value).__name__}"


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 writes to stand for bytes in an old pickle, and no other codec."""
    if encoding != "latin1":
        raise AmcError(f"asks for the codec {encoding!r}, which no CIFAR batch needs")
    return text.encode("latin1")


# All that a CIFAR batch names. The first is taken from an array, because the module in which
# NumPy keeps it depends on NumPy's version.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _BatchUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, bytes and arrays; any other name is refused.

    A pickle is a program that may call whatever `find_class` hands it. Nothing is imported here:
    a name is looked up in a table, and what the table holds is all there is to call.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The object of that name, if a CIFAR batch may name it."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise AmcError(
                f"names {module}.{name}, which no CIFAR batch needs; refused, nothing was run"
            ) from None
