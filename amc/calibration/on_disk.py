"""Tensors that wait on disk, in files that are gone with the process."""

import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


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
