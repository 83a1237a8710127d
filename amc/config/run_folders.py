"""Settings of the commands on run folders: ``python -m amc.export`` and ``amc.report``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from amc.config.composed import Composed
from amc.runtime.errors import AmcError
from amc.runtime.files import as_paths, expanded


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


@dataclass(frozen=True)
class ReportConfig(Composed):
    """Writes the page of a run from what its folder holds, or of several runs side by side."""

    command = "amc.report"
    bare = ("runs",)

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders of runs, of a sweep or of a comparison; of several, runs only."""
    output: Path | None = None
    """The page of several runs, a name that ends in .html; the same in Markdown is beside it.
    Default: comparison.html beside the first folder. The page of one run is in its folder."""

    def __post_init__(self) -> None:
        runs = tuple(expanded(os.fspath(run)) for run in self.runs)
        object.__setattr__(self, "runs", runs)
        if self.output is not None:
            object.__setattr__(self, "output", expanded(os.fspath(self.output)))
        if self.output is not None and self.output.suffix != ".html":
            raise AmcError(f"--output must end in .html, got {self.output}")
        if self.output is not None and len(self.runs) == 1:
            raise AmcError("--output is for several runs; the page of one is in its folder")
