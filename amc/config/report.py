"""Settings of ``python -m amc.report``."""

import os
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from amc.config.composed import Composed
from amc.runtime.errors import AmcError
from amc.runtime.files import expanded


@dataclass(frozen=True)
class ReportConfig(Composed):
    """Writes the page of a run from what its folder holds, or of several runs side by side."""

    command = "amc.report"
    bare = ("runs",)

    runs: Positional[tuple[Path, ...]] = ()
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
