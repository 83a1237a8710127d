"""How far a job is: bars on a terminal, lines at least every ten seconds anywhere else."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import timedelta
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from amc.runtime.wording import duration

T = TypeVar("T")

SOON, EVERY = 1.0, 8.0
"""Seconds until a step is spoken of, and between lines: never ten, though a thread may be late."""

PACE = 4
"""Lines back to where the pace is measured from: recorded episodes go by at once, new ones not."""

WIDE = 100
"""Columns of a terminal from which on bars are long."""


class Bar:
    """A step of a job: how much of it is done.

    Attributes:
        name: what is being done; may change on the way.
        total: units of work; None as long as that is not known.
        done: of them.
        note: what came of the last one.
    """

    def __init__(
        self, name: str, total: int | None, changed: Callable[["Bar"], None] = lambda bar: None
    ) -> None:
        self.name, self.total, self.done, self.note = name, total, 0, ""
        self._changed = changed

    def step(self, note: str = "", total: int | None = None, name: str = "") -> None:
        """One unit of work is done.

        Args:
            note: takes the place of the last one.
            total: how many units there are, where it was not known.
            name: what is being done from now on, if it is something else.
        """
        self.done, self.note = self.done + 1, note
        self.total = self.total if total is None else total
        self.name = name or self.name
        self._changed(self)

    def over(self, units: Iterable[T]) -> Iterator[T]:
        """The units, each counted once the next is asked for."""
        if self.total is None and isinstance(units, Sized):
            self.total = len(units)
        for unit in units:
            yield unit
            self.step(self.note)

    def show(self, name: str = "", note: str = "") -> None:
        """What is being done from now on, or what came of it so far."""
        self.name, self.note = name or self.name, note or self.note
        self._changed(self)


class Steps(Protocol):
    """Shows steps; one within another is part of it."""

    def bar(self, name: str, total: int | None = None) -> contextlib.AbstractContextManager[Bar]:
        """The step that goes on inside."""
        ...


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def bar(self, name: str, total: int | None = None) -> Iterator[Bar]:
        """Only counts."""
        yield Bar(name, total)


class Bars:
    """On a terminal. Bars of steps within others, and of those without a total, do not stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    @contextlib.contextmanager
    def bar(self, name: str, total: int | None = None) -> Iterator[Bar]:
        """Moves while the step goes on."""
        with contextlib.ExitStack() as stack:
            within = self._progress is not None
            progress = self._progress or stack.enter_context(self._opened())
            task = progress.add_task(name, total=total, note="")

            def changed(bar: Bar) -> None:
                progress.update(
                    task, completed=bar.done, total=bar.total, description=bar.name, note=bar.note
                )

            bar = Bar(name, total, changed)
            try:
                yield bar
            finally:
                if within or bar.total is None:
                    progress.remove_task(task)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Progress]:
        columns = (
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(bar_width=24 if self._console.width >= WIDE else 10),
            _Units(),
            _Time(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
        )
        with Progress(*columns, console=self._console, speed_estimate_period=600) as progress:
            self._progress = progress
            try:
                yield progress
            finally:
                self._progress = None


class _Units(MofNCompleteColumn):
    """``3/40``; nothing where it is not known how many there are."""

    def render(self, task: Task) -> Text:
        """Of a step."""
        return Text() if task.total is None else super().render(task)


class _Time(TimeRemainingColumn):
    """The time that is left; where nobody knows, that which has passed."""

    def render(self, task: Task) -> Text:
        """Of a step."""
        if task.time_remaining is not None or task.finished:
            return super().render(task)
        passed = timedelta(seconds=int(task.elapsed or 0))
        return Text(f"{passed} so far", style="progress.elapsed")


class Lines:
    """In a file or a pipe: a line after a second, then every `EVERY`, and one at the end.

    A thread says them, so that a unit of work which takes minutes is no silence. Steps that are
    over at once have the last line only, and those without a total, none.

    Args:
        say: prints a line.
        clock: seconds.
    """

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._clock = say, clock
        self._lock = threading.RLock()
        self._going: list[_Going] = []
        self._due, self._told = 0.0, False
        self._failed: BaseException | None = None

    @contextlib.contextmanager
    def bar(self, name: str, total: int | None = None) -> Iterator[Bar]:
        """Is spoken of while the step goes on."""
        bar = Bar(name, total, lambda bar: self.beat())
        one = _Going(bar, self._clock())
        with self._lock:
            outermost = not self._going
            self._going.append(one)
        with self._speaking(one.start) if outermost else contextlib.nullcontext():
            try:
                yield bar
            finally:
                with self._lock:
                    self._going.remove(one)
        self._complain()
        if outermost and (self._told or bar.total is not None):
            self._say(one.ending(self._clock()))

    def beat(self) -> None:
        """Says how far it is, if it is time to.

        Raises:
            BaseException: what the thread met when it was to say something.
        """
        self._complain()
        with self._lock:
            now = self._clock()
            if self._going and now >= self._due:
                self._due, self._told = now + EVERY, True
                self._say(" | ".join(one.line(now) for one in self._going))

    def _complain(self) -> None:
        if failed := self._failed:
            self._failed = None
            raise failed

    @contextlib.contextmanager
    def _speaking(self, start: float) -> Iterator[None]:
        """The thread is there inside."""
        self._due, self._told, over = start + SOON, False, threading.Event()

        def speak() -> None:
            try:
                while not over.wait(max(0.01, self._due - self._clock())):
                    self.beat()
            except BaseException as failed:  # for the thread that works
                self._failed = failed

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class _Going:
    """A step that goes on, in words."""

    def __init__(self, bar: Bar, start: float) -> None:
        self._bar, self.start = bar, start
        self._marks = deque([(start, 0)], maxlen=PACE)

    def line(self, now: float) -> str:
        """How far it is; the pace is that since a few lines ago."""
        bar, text = self._bar, f"{self._bar.name:<10}  "
        if bar.total is None:
            return text + f"{duration(now - self.start)} so far"
        left = self._left(now)
        self._marks.append((now, bar.done))
        text += f"{bar.done}/{bar.total}"
        text += f", {duration(now - self.start)} so far" if left is None else f", {left} left"
        return f"{text}  {bar.note}".rstrip()

    def ending(self, now: float) -> str:
        """What it took."""
        bar, took = self._bar, duration(now - self.start)
        units = "" if bar.total is None else f"{bar.done}/{bar.total} "
        return f"{bar.name:<10}  {units}in {took}  {bar.note}".rstrip()

    def _left(self, now: float) -> str | None:
        bar = self._bar
        for since, done in (self._marks[0], (self.start, 0)):
            if bar.done > done and bar.total is not None:
                return duration((now - since) / (bar.done - done) * (bar.total - bar.done))
        return None
