"""What a person sees while a run is going on, and at its end."""

import io
import logging
import sys
import textwrap
from contextlib import AbstractContextManager
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from amc.runs.progress import Bar as Bar
from amc.runs.progress import Bars, Lines, Silent, Steps
from amc.runtime.errors import OutputLost
from amc.runtime.wording import encodable, plain

LOG = logging.getLogger("amc")
"""For those who call the library: every line, also when the terminal is quiet."""

INDENT = 9
"""Columns of the word that most lines begin with."""

UNBOUNDED = 120
"""Columns of a file, which has no edge: room for long layer names."""


class Terminal:
    """Messages, progress and tables on standard output; nothing when quiet.

    Whatever text comes in, names of layers and files for instance, is shown as it is: no markup,
    no emoji codes, no control characters. Where standard output is no terminal, progress is told
    in lines (`amc.runs.progress.Lines`).
    """

    def __init__(self, quiet: bool) -> None:
        out = _Output(sys.stdout)
        self.console = _Console(
            file=cast(TextIO, out), quiet=quiet or sys.stdout is None, highlight=False,
            markup=False, emoji=False,
        )  # fmt: skip
        self._interactive = out.isatty() and not self.console.is_dumb_terminal
        if not self._interactive:
            self.console.width = UNBOUNDED
        self._steps: Steps = Bars(self.console) if self._interactive else Lines(self.say)
        if self.console.quiet:
            self._steps = Silent()

    def say(self, *lines: str) -> None:
        """Lines; a line break within one is spelled out.

        On a terminal, sentences that are too long go on under their beginning. Commands stay one
        line, which can be copied.
        """
        for line in lines:
            LOG.info("%s", line)
            whole = line.startswith(" ") or "python -m" in line or not self._interactive
            for part in [line] if whole else self._wrapped(line):
                self.console.print(part, soft_wrap=True)

    def _wrapped(self, line: str) -> list[str]:
        width = max(40, self.console.width)
        return textwrap.wrap(
            plain(line), width, subsequent_indent=" " * INDENT, break_long_words=False,
            break_on_hyphens=False,
        ) or [""]  # fmt: skip

    def hush(self) -> None:
        """Shows nothing from now on: in a process that was forked to work beside the first."""
        self.console, self._steps = _Console(file=io.StringIO(), quiet=True), Silent()

    def table(self, table: Table) -> None:
        """A table."""
        self.console.print(table)

    def bar(self, name: str, total: int | None = None) -> AbstractContextManager[Bar]:
        """Shows the progress of what is done inside, ``total`` units of work if that is known.

        Within another one it is part of that step, and leaves nothing behind.
        """
        return self._steps.bar(name, total)


class _Console(Console):
    """Shows every string as it is; all strings that are printed go through one method."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(encodable(plain(text), self.encoding), **how)


class _Output:
    """Standard output, or its place if it is closed.

    Raises:
        OutputLost: when written to, nobody reads it any more, or it cannot be written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("standard output is closed")
        return self._stream.fileno()

    def write(self, text: str) -> None:
        try:
            if self._stream is not None:
                self._stream.write(encodable(text, self.encoding))
        except OSError as error:
            raise OutputLost(error) from None

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except OSError as error:
            raise OutputLost(error) from None
