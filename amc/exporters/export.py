"""From a network to a file that is proven equal before it has its name."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc.exporters.captured import Captured, batch_of, captured
from amc.exporters.formats import EXPORTERS, Exporter, root
from amc.exporters.onnx_program import hushed
from amc.exporters.verification import BATCHES, DifferentError, tolerance, verified
from amc.graph.shrink import duplicate
from amc.runtime import feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.runtime.files import write_atomically
from amc.runtime.user_code import one_line


@dataclass(frozen=True)
class Export:
    """A file that was written.

    Attributes:
        format: a name of `EXPORTERS`.
        file: its path.
        bytes: its size.
        error: the largest difference to PyTorch's outputs, see `verification.difference`.
        tolerance: what it may be.
        batches: numbers of samples that it was tried with.
        int8: what became of the network in 8 bits; None: it has its own numbers.
    """

    format: str
    file: Path
    bytes: int
    error: float
    tolerance: float
    batches: tuple[int, ...]
    int8: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, the file by its name."""
        return {**asdict(self), "file": self.file.name, "batches": list(self.batches)}


class Source:
    """A network to be written: a copy on the CPU, and its program once it is asked for.

    Args:
        model: on any device; never changed.
        sample: inputs; as many rows as its first tensor has are samples.
    """

    def __init__(self, model: nn.Module, sample: Feed) -> None:
        self.model = duplicate(model).cpu().eval().requires_grad_(False)
        self.sample = batch_of(sample, max(BATCHES))
        self._captured: Captured | None = None

    @property
    def captured(self) -> Captured:
        """The program, the same for every format.

        Raises:
            UnsupportedModelError: it cannot be exported.
        """
        if self._captured is None:
            self._captured = captured(self.model, self.sample)
        return self._captured

    @property
    def outputs(self) -> Any:
        """What the network puts out."""
        with torch.no_grad():
            return feed.call(self.model, batch_of(self.sample, 1))


def write(source: Source, path: Path, kind: str) -> Export:
    """Writes one file, tries it, and only then gives it its name.

    Args:
        source: the network.
        path: of the file; an older one stays where anything fails.
        kind: a name of `EXPORTERS`.

    Raises:
        AmcError: the network cannot be written in this format, or the file differs from it.
    """
    exporter = EXPORTERS[kind]
    made = source.captured if exporter.traced else None
    content = exporter.write(source.model, made)
    batches = BATCHES if made is None or made.batch is None else (made.batch,)
    error = written(source, path, content, exporter, batches)
    return Export(kind, path, len(content), error, tolerance(source.model), batches)


def written(
    source: Source, path: Path, content: bytes, exporter: Exporter, batches: Sequence[int]
) -> float:
    """Writes the content and tries it; the error."""
    errors = []

    def check(file: Path) -> None:
        with hushed():
            try:
                run = exporter.read(file, source.model, source.outputs)
            except AmcError:
                raise
            except Exception as error:  # a runtime may refuse in any way
                raise DifferentError(
                    f"what was written cannot be read: {one_line(root(error))[:300]}"
                ) from None
            errors.append(verified(source.model, run, source.sample, batches))

    try:
        write_atomically(path, content, check)
    except DifferentError as error:
        old = "; the older file is kept" if path.exists() else ""
        raise DifferentError(f"{path}: not written, {error}{old}") from None
    return errors[0]
