"""``python -m amc.report``: the page of a run, made anew from its folder; several side by side."""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.report")
    from amc.config.command_line import at_once
    from amc.config.run_folders import ReportConfig

    at_once("amc.report", ReportConfig)

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amc.config.command_line import command
from amc.config.run_folders import ReportConfig
from amc.reporting.html.record import CONTEST, SWEEP
from amc.reporting.html.run_page import write_run
from amc.reporting.html.side_by_side import write_comparison
from amc.reporting.html.study_page import write_study
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError


def run(config: ReportConfig) -> list[Path]:
    """Writes the page and the Markdown; returns their paths.

    Raises:
        AmcError: no run is given, a folder is none, or something in it is damaged.
    """
    if not config.runs:
        raise AmcError("expected the folder of a run, or of several, such as runs/x; got none")
    terminal, (first, *others) = Terminal(quiet=False), config.runs
    with terminal.bar("report"), readable(config.runs):
        if others:
            beside = Path(os.path.abspath(first)).parent / "comparison.html"
            written = write_comparison(config.runs, config.output or beside)
        elif any((first / name).is_file() for name in (SWEEP, CONTEST)):
            written = write_study(first)
        else:
            written = write_run(first)
    terminal.say(*(f"written  {path}" for path in written))
    return written


@contextmanager
def readable(folders: tuple[Path, ...]) -> Iterator[None]:
    """Files in these folders that are no account of a run end what is inside with one line."""
    for folder in folders:
        if not folder.is_dir():
            raise AmcError(f"{folder}: there is no such folder")
    try:
        yield
    except AmcError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        told = ", ".join(map(str, folders))
        raise AmcError(
            f"{told}: something in the files of the run is damaged: {error!r}"
        ) from error


def main() -> None:
    """The command."""
    command("amc.report", ReportConfig, run)


if __name__ == "__main__":
    main()
