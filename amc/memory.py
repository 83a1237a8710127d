"""How much memory may be held: the limit as a person writes it, and tensors kept on disk."""

import mmap
import os
import re
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from amc.errors import AmcError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(text: str, flag: str = "--memory") -> int:
    """The bytes of ``4GB`` or ``500MB``.

    Raises:
        AmcError: it is no such size.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?([KMGT]B)", text.strip().upper())
    count = round(float(found[1]) * UNITS[found[2]]) if found else 0
    if count < 1:
        raise AmcError(f"{flag} {text!r}: expected a size such as 4GB or 500MB")
    return count


def as_size(count: int) -> str:
    """Bytes as `parse_bytes` reads them, rounded up: a limit that is enough."""
    unit = next((name for name in ("GB", "MB") if count >= UNITS[name]), "KB")
    hundredths = -(-count * 100 // UNITS[unit])
    return f"{hundredths / 100:.10g}{unit}"


def share(limit: int | None, part: float, usual: int) -> int:
    """What one of those that hold memory may hold.

    Args:
        limit: on all of them together; None: there is none.
        part: of the limit that is its own.
        usual: what it holds without a limit, and never more.
    """
    return usual if limit is None else min(usual, int(part * limit))


@dataclass(frozen=True)
class Stored:
    """Where a tensor is in a file."""

    start: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class TensorFile:
    """Tensors in a file without a name, which is gone with this object and with the process.

    On ``$TMPDIR``, else /var/tmp: where /tmp is a part of the memory nothing would be won there.
    """

    def __init__(self) -> None:
        place = None if "TMPDIR" in os.environ or not Path("/var/tmp").is_dir() else "/var/tmp"
        self._file = tempfile.TemporaryFile(dir=place, buffering=0)
        weakref.finalize(self, self._file.close)

    def append(self, tensor: Tensor) -> Stored:
        """Writes a tensor."""
        pages = -(-self._file.seek(0, os.SEEK_END) // mmap.ALLOCATIONGRANULARITY)
        start = self._file.seek(pages * mmap.ALLOCATIONGRANULARITY)
        tensor.detach().cpu().contiguous().numpy().tofile(self._file)
        return Stored(start, tensor.shape, tensor.dtype, tensor.device)

    def clear(self) -> None:
        """Forgets all tensors."""
        self._file.truncate(0)

    def read(self, stored: Stored) -> Tensor:
        """A tensor whose memory is the file, for as long as somebody holds it.

        Writing to it leaves the file as it is.
        """
        count = stored.shape.numel()
        length = count * stored.dtype.itemsize
        if not length:
            return torch.empty(stored.shape, dtype=stored.dtype, device=stored.device)
        pages = mmap.mmap(
            self._file.fileno(), length, access=mmap.ACCESS_COPY, offset=stored.start
        )
        flat = torch.frombuffer(pages, dtype=stored.dtype, count=count)
        return flat.reshape(stored.shape).to(stored.device)
