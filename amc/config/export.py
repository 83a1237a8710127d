"""Every setting of ``python -m amc.export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from amc.config.composed import Composed
from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths


@dataclass(frozen=True)
class ExportConfig(Composed):
    """Writes the network of a run folder as a file for elsewhere, and proves it equal."""

    command = "amc.export"
    bare = ("run",)

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    format: Literal["onnx", "pt2", "safetensors", "state_dict"] = "onnx"
    """onnx: for onnxruntime and other runtimes; pt2: a program for torch.export.load; both take
    any number of samples and need no class. safetensors, state_dict: the tensors alone."""
    int8: bool = False
    """Whole numbers of 8 bits, calibrated on the run's training images; with --format onnx."""
    output: Path | None = None
    """The file. Default: pruned.onnx (.int8.onnx, .pt2, .safetensors, .pt) in the run folder."""
    quiet: bool = False
    """Print errors only."""
    trust: bool = False
    """Use a run folder of another user; it names code that runs here."""

    def __post_init__(self) -> None:
        as_paths(self)
        if self.int8 and self.format != "onnx":
            raise AmcError(f"--int8 goes with --format onnx, not with {self.format}")
        if self.output is not None and self.output.is_dir():
            raise AmcError(f"--output {self.output}: is a folder, expected a file")

    @property
    def name(self) -> str:
        """The format, or "int8"."""
        return "int8" if self.int8 else self.format
