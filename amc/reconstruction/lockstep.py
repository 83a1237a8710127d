"""All batches through a network side by side, so that each layer is changed before it runs.

Solving layers in execution order needs, at every layer, the inputs of all images from the network
as it is by then. Instead of one pass over the images per layer there is one in all: every batch
runs in a thread of its own, waits where a layer is to be solved until all batches have come there,
and goes on once it has been. Only one thread runs at a time; the threads are there because they
are the one way to stop in the middle of any model code.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from amc.graph.attention.watching import Watching
from amc.runtime import feed
from amc.runtime.feed import Feed

Stop = TypeVar("Stop")


class Diverged(Exception):
    """The batches do not stop at the same places: control flow depends on the data."""


class _Abandoned(BaseException):
    """Nobody waits for this batch any more; no `except Exception` of the model may catch it."""


@dataclass(frozen=True)
class Operation:
    """An operator that is about to run.

    Attributes:
        func, args, kwargs: as torch calls it.
        number: of the operator in the forward pass, from 0.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    number: int


class Lockstep(Generic[Stop]):
    """Forward passes of all batches that stop together.

    Args:
        model: in eval mode; its parameters may be changed in place at every stop.
        batches: images of each pass.
        pause: looks at an operator that is about to run, in the pass with this number; not None
            makes the pass stop before it.
        after: looks at an operator's result.
        rest: called with the number of a pass after it has stopped, and
        wake: before it goes on.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Feed],
        pause: Callable[[int, Operation], Stop | None],
        after: Callable[[int, Operation, Any], None] = lambda batch, operation, out: None,
        rest: Callable[[int], None] = lambda batch: None,
        wake: Callable[[int], None] = lambda batch: None,
    ) -> None:
        self._rest, self._wake = rest, wake
        self._passes = [
            _Pass(model, images, number, pause, after) for number, images in enumerate(batches)
        ]

    @property
    def first(self) -> Any:
        """What the model returned for the first batch."""
        return self._passes[0].result

    def run(self, at_stop: Callable[[Sequence[Stop]], None]) -> None:
        """Runs all passes to their end.

        Args:
            at_stop: called with what `pause` gave, in the order of the batches, whenever all
                passes have stopped.

        Raises:
            Diverged: some passes have stopped and others have ended.
            Exception: whatever the model or ``at_stop`` raises.
        """
        try:
            while True:
                stops = [self._resume(number) for number in range(len(self._passes))]
                found = [stop for stop in stops if stop is not None]
                if not found:
                    return
                if len(found) < len(stops):
                    raise Diverged
                at_stop(found)
        finally:
            for one in self._passes:
                one.abandon()

    def _resume(self, number: int) -> Stop | None:
        self._wake(number)
        stop = self._passes[number].resume()
        if stop is not None:
            self._rest(number)
        return stop


class _Pass(Watching, Generic[Stop]):
    """One forward pass, in a thread of its own that runs only inside `resume`."""

    def __init__(
        self,
        model: nn.Module,
        images: Feed,
        number: int,
        pause: Callable[[int, Operation], Stop | None],
        after: Callable[[int, Operation, Any], None],
    ) -> None:
        super().__init__()
        self._model, self._images, self._number = model, images, number
        self._pause, self._after = pause, after
        self._count, self._ended = 0, False
        self.result: Any = None
        self._stop: Stop | None = None
        self._error: BaseException | None = None
        self._go, self._halt = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def resume(self) -> Stop | None:
        """Runs to the next stop; None at the end."""
        if self._ended:
            return None
        self._stop = None
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"pass {self._number}", daemon=True
            )
            self._thread.start()
        else:
            self._go.release()
        self._halt.acquire()
        if self._error is not None:
            raise self._error
        return self._stop

    def abandon(self) -> None:
        """Ends the thread, wherever it is."""
        if self._thread is not None and not self._ended:
            self._ended = True
            self._go.release()
            self._thread.join()

    def _run(self) -> None:
        try:
            with torch.no_grad(), self:
                self.result = feed.call(self._model, self._images)
        except _Abandoned:
            return
        except BaseException as error:
            self._error = error
        self._ended = True
        self._halt.release()

    def ran(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs the operator, after a stop if it is one to stop at."""
        operation = Operation(func, args, kwargs, self._count)
        self._count += 1
        stop = self._pause(self._number, operation)
        if stop is not None:
            self._stop = stop
            self._halt.release()
            self._go.acquire()
            if self._ended:
                raise _Abandoned
        out = func(*args, **kwargs)
        self._after(self._number, operation, out)
        return out
