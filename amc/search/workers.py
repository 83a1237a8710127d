"""Processes that measure strategies side by side."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from amc.runtime.errors import AmcError

Given = TypeVar("Given")
Found = TypeVar("Found")

Measure = Callable[[Sequence[Given]], list[Found]]


@contextlib.contextmanager
def workers(
    evaluate: Callable[[Given], Found], count: int
) -> Iterator[Measure[Given, Found] | None]:
    """A function that measures several things at once, strategies for one; None for one worker.

    The processes are forked, so that network, statistics and images are shared with this one and
    nothing has to be pickled. Each has one thread: more would only wait for each other.

    Args:
        evaluate: measures one of them.
        count: of processes.

    Raises:
        AmcError: this system cannot fork, or a worker died.
    """
    if count == 1:
        yield None
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise AmcError(f"--workers {count}: this system cannot fork processes; allowed: 1")
    fork, begin = multiprocessing.get_context("fork"), (evaluate, os.getpid())
    pool = ProcessPoolExecutor(count, fork, initializer=_begin, initargs=begin)

    def measure(given: Sequence[Given]) -> list[Found]:
        try:
            return list(pool.map(_call, given))
        except BrokenProcessPool:
            raise AmcError(
                f"--workers {count}: a worker was killed (out of memory?); go on "
                "with --resume and fewer workers"
            ) from None

    try:
        yield measure
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_evaluate: Callable[[Any], Any]


def _begin(evaluate: Callable[[Any], Any], parent: int) -> None:
    global _evaluate
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    _evaluate = evaluate


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever, and hold its memory."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _call(given: Any) -> Any:
    return _evaluate(given)
