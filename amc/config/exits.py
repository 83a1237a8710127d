"""How a command ends where it does not come to its end: with one line."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TextIO

from amc.runtime import launch
from amc.runtime.errors import AmcError, BrokenCodeError, Lost, OutputLost
from amc.runtime.files import UnwritableError
from amc.runtime.memory import keep_freed
from amc.runtime.user_code import one_line, users_line
from amc.runtime.wording import encodable, one_line_of, plain

CLOSED = 141
"""Exit status where nobody reads the output any more: that of a tool which SIGPIPE has ended."""

INTERRUPTED = 130
"""After Ctrl-C, as a shell has it."""

FIRST, EVERY = 5.0, 8.0
"""Seconds until a line says that modules are being loaded, and until the next."""

LOADED = threading.Event()
"""Set once a command's modules are there."""

OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


@contextlib.contextmanager
def exit_with_one_line(
    name: str, advice: str = "", resume: Callable[[], str] = str
) -> Iterator[None]:
    """A mistake of the user's ends what is inside with one line and status 1.

    Ctrl-C ends it with status `INTERRUPTED`, and an output that nobody reads with `CLOSED`. Of
    several processes the first says it, unless the mistake is that of another alone.

    Args:
        name: of the command.
        advice: after a mistake.
        resume: how to go on after a stop, if that can be said.
    """
    LOADED.set()
    try:
        _hold_places()
        try:
            yield
        finally:
            flush()
    except (OutputLost, BrokenPipeError) as lost:
        _silence()
        rest = resume()
        if isinstance(lost, OutputLost) and not lost.closed:
            sys.exit(_line(name, str(lost), rest))
        if rest:  # other tools end without a word
            print(_line(name, "standard output is closed", rest), file=sys.stderr)
        sys.exit(CLOSED)
    except (UnwritableError, OSError) as error:  # the disk is full, a folder went away
        sys.exit(_line(name, str(error), resume()) if launch.speaks() else 1)
    except AmcError as error:
        rest = resume() if isinstance(error, BrokenCodeError) and error.kept else ""
        sys.exit(_line(name, f"{error}{advice}", rest) if launch.speaks() else 1)
    except KeyboardInterrupt:
        if not launch.prefix():
            print(_line(name, "interrupted", resume()), file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (Lost, Exception) as error:
        said = _explained(error)
        if not said:  # a fault of ours: the whole story is wanted
            raise
        sys.exit(_line(name, said, resume()))


def _explained(error: BaseException) -> str:
    """What has happened, where it is no fault of ours."""
    if isinstance(error, Lost):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory"
    short = any(words in str(error) for words in OUT_OF_MEMORY)
    return one_line(error) if short or users_line(error) else ""


def _line(name: str, said: str, rest: str = "") -> str:
    """For standard error; the rest is a command, which is not shortened."""
    line = one_line_of(f"{name}: {launch.prefix()}{said}") + plain(rest)
    return encodable(line, getattr(sys.stderr, "encoding", None) or "utf-8")


def interruptible(name: str) -> None:
    """The first thing that a command does: Ctrl-C while modules are being loaded is one line too.

    It also makes OpenMP's threads spin for a short time only while they wait. Beside one other
    busy process their milliseconds made an epoch of ResNet-20 fifty times slower (60 s instead of
    1.1 s, on two cores); a short spin costs nothing measurable on a quiet machine. And memory
    that is freed stays with the process.
    """
    keep_freed()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is loaded

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            if not launch.prefix():
                print(_line(name, "interrupted"), file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def while_loading(stream: TextIO | None) -> None:
    """Says from time to time that modules are being loaded: from a cold disk torch takes long.

    Until `exit_with_one_line` begins; several processes leave it to the first.
    """
    if stream is None or launch.prefix():
        return
    LOADED.clear()

    def speak() -> None:
        start = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # nobody reads; the command will find out
            wait = FIRST
            while not LOADED.wait(wait):
                wait = EVERY
                print(
                    f"load        {time.monotonic() - start:.0f} s so far", file=stream, flush=True
                )

    threading.Thread(target=speak, daemon=True).start()


def _hold_places() -> None:
    """Takes the places of standard streams that are closed, before a file of ours gets one."""
    with contextlib.suppress(OSError):
        while (place := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(place)


def flush() -> None:
    """Writes what standard output still holds back.

    Raises:
        OutputLost: it cannot be written.
    """
    if sys.stdout is not None and not sys.stdout.closed:
        try:
            sys.stdout.flush()
        except OSError as error:
            raise OutputLost(error) from None


def _silence() -> None:
    """What is still to be written goes nowhere, and Python does not complain at its exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
