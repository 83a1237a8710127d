"""How long a pass takes on a machine that does other things as well."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from amc.exporters.onnx_program import Run
from amc.graph.arrays import FloatArray, IntArray
from amc.objectives.latency import Clock

QUANTILE = 0.1
"""Of the passes of a turn: whatever else the machine does only adds to a time."""

TURN, LEAST = 0.01, 12
"""Seconds, and passes, that a network has in a turn."""

Stopwatch = Callable[[Run], float]
"""A forward pass -> milliseconds."""


def stopwatch(clock: Clock, wall: Clock = time.perf_counter) -> Stopwatch:
    """Measures a pass by many of them."""

    def milliseconds(run: Run) -> float:
        run()  # what is made once
        run()
        found: list[float] = []
        end = wall() + TURN
        while len(found) < LEAST or wall() < end:
            start = clock()
            run()
            found.append(clock() - start)
        return 1e3 * float(np.quantile(found, QUANTILE))

    return milliseconds


def timed(
    networks: Callable[[IntArray], Run],
    counts: Sequence[IntArray],
    watch: Stopwatch,
    passes: int,
    on_step: Callable[[], object] = lambda: None,
) -> FloatArray:
    """Milliseconds of many networks, [R]: the least of several turns, far apart in time.

    Every turn builds its network anew: where its weights lie in memory is worth a few percent.

    Args:
        networks: makes the forward pass of counts [T].
        counts: of every network.
        watch: what measures.
        passes: turns of every network.
        on_step: called after each turn.
    """
    found = np.full(len(counts), np.inf)
    for _ in range(passes):
        for row, one in enumerate(counts):
            found[row] = min(found[row], watch(networks(one)))
            on_step()
    return found
