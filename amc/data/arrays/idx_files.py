"""IDX files, gzipped or not: the format of MNIST and of the data sets made in its form.

Two zero bytes, a byte for the type of the numbers, one for how many dimensions, the sizes as
big-endian 32-bit integers, then the numbers, row by row.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from amc.runtime.errors import AmcError

TYPES = {
    0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64",
}  # fmt: skip
CHUNK = 1 << 24  # bytes; a damaged header may ask for any number of them

FILE = re.compile(
    r"(?:(?P<set>.+)-)?(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(\.gz)?"
)
FILES = ("train-images", "train-labels", "test-images", "test-labels")


@dataclass
class IdxSet:
    """The four files of one data set.

    Attributes:
        name: what stands before `train` in their names, as in ``emnist-letters-train-...``;
            empty if nothing does.
        files: by the names `FILES`.
    """

    name: str
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The name without that of the collection: `letters` of `emnist-letters`."""
        return self.name.rpartition("-")[2]


def find_set(folder: Path, wanted: str | None) -> IdxSet:
    """The data set in a folder of IDX files, by its name or the last word of it.

    Raises:
        AmcError: the folder is none, there is no such set, several and no choice, or a file lacks.
    """
    sets = _sets(folder)
    if not sets:
        raise AmcError(
            f"idx:{folder}: no IDX files, expected train-images-idx3-ubyte, "
            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each "
            "with .gz or without"
        )
    names = ", ".join(one.name or "''" for one in sets)
    if wanted is None and len(sets) > 1:
        raise AmcError(
            f"idx:{folder}: {len(sets)} data sets, {names}; choose one: "
            f"idx:{folder}?set={sets[-1].short}"
        )
    exact = [one for one in sets if wanted in (None, one.name)]
    chosen = exact or [one for one in sets if wanted == one.short]
    if len(chosen) != 1:
        raise AmcError(f"idx:{folder}: set={wanted} given, expected one of {names}")
    missing = [name for name in FILES if name not in chosen[0].files]
    if missing:
        there = ", ".join(sorted(path.name for path in chosen[0].files.values()))
        raise AmcError(f"idx:{folder}: no {' and no '.join(missing)}, only {there}")
    return chosen[0]


def _sets(folder: Path) -> list[IdxSet]:
    """All data sets in a folder, by name; of a file both with .gz and without, the latter."""
    if not folder.is_dir():
        raise AmcError(f"idx:{folder}: no such folder")
    sets: dict[str, IdxSet] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix != ".gz"):
        match = FILE.fullmatch(path.name)
        if match and path.is_file():
            part = "train" if match["part"] == "train" else "test"
            name = match["set"] or ""
            sets.setdefault(name, IdxSet(name)).files[f"{part}-{match['what']}"] = path
    return [sets[name] for name in sorted(sets)]


def read_images(path: Path) -> NDArray[np.uint8]:
    """Images [N, C, H, W]: grey ones [N, H, W], or colour, the colours first or last, in the file.

    Raises:
        AmcError: it is no such file.
    """
    stored = images = read_idx(path)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise AmcError(
            f"{path}: sizes {list(stored.shape)}, expected images: [N, height, width], or with 3 "
            "colours before or after height and width"
        )
    return images


def read_labels(path: Path, images: int) -> NDArray[np.uint8]:
    """Labels [N] of so many images.

    Raises:
        AmcError: it is no such file, or of another number.
    """
    labels = read_idx(path)
    if labels.shape != (images,):
        raise AmcError(f"{path}: sizes {list(labels.shape)}, expected {images} labels, as images")
    return labels


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The numbers of an IDX file of bytes, in the sizes that it names.

    Raises:
        AmcError: it cannot be read, is neither IDX nor gzip, holds other numbers than bytes, or
            fewer or more than its sizes say.
    """
    try:
        with path.open("rb") as file:
            first = file.read(2)
            file.seek(0)
            if first == b"\x1f\x8b":
                with gzip.open(file) as unpacked:
                    return _read(unpacked, path)
            return _read(file, path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise AmcError(f"{path}: cannot be read: {reason}") from None


def _read(file: BinaryIO | gzip.GzipFile, path: Path) -> NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not magic[3]:
        raise AmcError(
            f"{path}: begins with {magic.hex(' ') or 'nothing'}, expected 00 00 08 and the number "
            "of dimensions (IDX), or gzip"
        )
    if magic[2] != 0x08:
        raise AmcError(f"{path}: holds {TYPES[magic[2]]}, expected uint8")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise AmcError(f"{path}: ends within its header")
    sizes = [int(size) for size in np.frombuffer(header, ">u4")]
    expected, content = int(np.prod(sizes, dtype=object)), bytearray()
    for chunk in _chunks(file, expected + 1):
        content += chunk
    if len(content) != expected:
        found = f"{len(content)}" if len(content) < expected else "more"
        raise AmcError(f"{path}: sizes {sizes} need {expected} bytes, there are {found}")
    return np.frombuffer(content, np.uint8).reshape(sizes)


def _chunks(file: BinaryIO | gzip.GzipFile, most: int) -> Iterator[bytes]:
    while most and (chunk := file.read(min(most, CHUNK))):
        most -= len(chunk)
        yield chunk
