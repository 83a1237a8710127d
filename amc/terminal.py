"""What a person sees while a run is going on, and at its end."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Bar:
    """A progress bar; the note at its end is replaced at every step."""

    def __init__(self, progress: Progress, name: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total, note="", visible=total is not None)

    def step(self, note: str = "", total: int | None = None) -> None:
        """One unit of work is done; ``total`` says how many there are, where it was not known."""
        self._progress.update(self._task, advance=1, note=note, total=total, visible=True)


class Terminal:
    """Messages, progress bars and tables on standard output; nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(quiet=quiet, highlight=False)
        if not self.console.is_terminal:
            self.console.width = 120  # a file has no edge: room for long layer names

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table."""
        self.console.print(table)

    @contextmanager
    def bar(self, name: str, total: int | None = None) -> Iterator[Bar]:
        """A progress bar for work of ``total`` units; on a plain stream its last state only.

        Without a total the bar is shown from the first step on.
        """
        columns = (
            TextColumn(f"{name:<10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            yield Bar(progress, name, total)
