"""Where files that can be made again are kept, and how they get there whole."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amc.errors import AmcError
from amc.files import expanded, write_atomically

Bytes = NDArray[np.uint8]


def cache_dir() -> Path:
    """The user's cache folder, `$AMC_CACHE` or `~/.cache/amc-pruning`; it may not exist yet."""
    given = os.environ.get("AMC_CACHE")
    return expanded(given) if given else Path.home() / ".cache" / "amc-pruning"


def cached_arrays(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[], dict[str, Bytes]],
) -> dict[str, Bytes]:
    """Read uint8 arrays from the cache, or make them and try to keep them there.

    Args:
        name: The file's name without its suffix; it must change whenever what `make` returns does.
        shapes: The arrays' names and shapes; a file with anything else counts as missing.
        make: Makes the arrays when the cache does not hold them.

    Returns:
        The arrays by name, the same whether they were read or made.
    """
    path = cache_dir() / f"{name}.npz"
    # A damaged zip can raise almost anything; whatever it is, the arrays are simply made again.
    with suppress(Exception):
        return _read(path, shapes)
    arrays = make()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    with suppress(AmcError):  # a full or read-only disk costs time on the next run, nothing else
        write_atomically(path, buffer.getvalue())
    return arrays


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Bytes]:
    """The arrays in `path`; raises when they are not exactly those of `shapes`."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    found = {key: array.shape for key, array in arrays.items() if array.dtype == np.uint8}
    if found != dict(shapes):
        raise ValueError(f"{path}: holds {found}, expected {dict(shapes)}")
    return arrays
