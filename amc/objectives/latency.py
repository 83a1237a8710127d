"""What a forward pass takes: measured in PyTorch and in onnxruntime, the networks taking turns.

Eager PyTorch pays for every operator's call, which hides in small networks what the arithmetic
costs; onnxruntime is nearer to what networks are deployed with. Both measure on this machine.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.benchmark import Timer

from amc.exporters.onnx_program import Run, exported, opened
from amc.runtime import feed
from amc.runtime.feed import Feed
from amc.runtime.user_code import one_line
from amc.tasks.evaluate import in_eval_mode

ROUNDS, SECONDS = 9, 0.06
"""How often every network has its turn, and for how long."""

BUSY = 0.1
"""Turns that differ by this part of their time say that the machine did other things as well."""

SLOW = 0.5
"""Time follows the MACs if it falls by at least this part of what they do."""

Clock = Callable[[], float]


class Progress(Protocol):
    """Shows a step of so many units while it goes on, as `Terminal.bar` does."""

    def __call__(self, name: str, total: int | None) -> AbstractContextManager[Any]:
        """Inside of it; what comes has ``step()``."""
        ...


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a pass: median of the turns, their interquartile range, fastest."""

    median: float
    iqr: float
    fastest: float

    @classmethod
    def of(cls, turns: Sequence["Turn"]) -> "Latency":
        """Of all turns of a network."""
        medians = [turn.median for turn in turns]
        low, middle, high = quantiles(medians, n=4)
        return cls(middle, high - low, min(turn.fastest for turn in turns))


@dataclass(frozen=True)
class Turn:
    """Milliseconds of the passes of one turn."""

    median: float
    fastest: float


@dataclass(frozen=True)
class Timing:
    """Both networks in one runtime.

    Attributes:
        runtime: its name and version.
        original: before the cut.
        pruned: after it.
        ratio: time of the pruned network as part of the original's: the median over the rounds,
            in each of which both have a turn.
        problem: why nothing was measured; empty if it was.
        spread: interquartile range of these ratios.
        threads: of the CPU.
        batch: samples in a pass.
        device: cpu or cuda.
        rounds: how many there were.
    """

    runtime: str
    original: Latency | None = None
    pruned: Latency | None = None
    ratio: float | None = None
    problem: str = ""
    spread: float = 0.0
    threads: int = 1
    batch: int = 1
    device: str = "cpu"
    rounds: int = 0

    @property
    def where(self) -> str:
        """The runtime and what it runs on, in words."""
        if self.device != "cpu":
            return f"{self.runtime}, {self.device.upper()}"
        return f"{self.runtime}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def disturbed(self) -> bool:
        """Whether the machine was too busy for the times to be trusted."""
        found = [x for x in (self.original, self.pruned) if x is not None]
        return any(x.iqr > BUSY * x.median for x in found)


def timings(
    original: nn.Module, pruned: nn.Module, sample: Feed, progress: Progress
) -> tuple[Timing, ...]:
    """Times of a forward pass in eval mode: eager PyTorch, and onnxruntime on the CPU.

    Args:
        original: never changed.
        pruned: neither.
        sample: what the networks are fed with.
        progress: shows how far it is.
    """
    threads, device = torch.get_num_threads(), feed.leaves(sample)[0].device.type
    batch = feed.samples(sample)
    eager = Timing(
        f"PyTorch {torch.__version__.split('+')[0]}", threads=threads, batch=batch, device=device
    )
    with torch.inference_mode(), contextlib.ExitStack() as stack:
        for model in (original, pruned):
            stack.enter_context(in_eval_mode(model))
        bar = stack.enter_context(progress("time torch", ROUNDS))
        first = raced(
            eager,
            lambda: feed.call(original, sample),
            lambda: feed.call(pruned, sample),
            bar.step,
        )
    return first, _in_onnxruntime(original, pruned, sample, progress)


def preferred(found: tuple[Timing, ...]) -> float:
    """The ratio in the runtime that is nearest to a deployment: the last that was measured."""
    ratios = [timing.ratio for timing in found if timing.ratio is not None]
    return ratios[-1]


def follows(time: float, macs: float) -> bool:
    """Whether the part of the time that is left is what the part of the MACs makes one expect."""
    return 1 - time >= SLOW * (1 - macs)


def raced(
    of: Timing, original: Run, pruned: Run, on_step: Callable[[], object] = lambda: None
) -> Timing:
    """Two forward passes that take turns: what slows the machine for a while slows both.

    Args:
        of: where they are timed.
        original: a pass of the network before the cut.
        pruned: and after it.
        on_step: called after each of `ROUNDS` rounds.
    """
    before, after = race([original, pruned], of.threads, of.device, on_step)
    ratios = [b.median / a.median for a, b in zip(before, after, strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return replace(
        of,
        original=Latency.of(before),
        pruned=Latency.of(after),
        ratio=middle,
        spread=high - low,
        rounds=len(ratios),
    )


def race(
    runs: Sequence[Run],
    threads: int,
    device: str = "cpu",
    on_step: Callable[[], object] = lambda: None,
) -> list[list[Turn]]:
    """Turns of forward passes, by run, in `ROUNDS` rounds; every second round goes backwards.

    Args:
        runs: what is timed.
        threads: of the CPU.
        device: where they compute.
        on_step: called after each round.
    """
    clock = clock_for(threads, torch.device(device))
    turns: list[list[Turn]] = [[] for _ in runs]
    order = list(range(len(runs)))
    for number in range(ROUNDS):
        for one in reversed(order) if number % 2 else order:
            timer = Timer("run()", globals={"run": runs[one]}, num_threads=threads, timer=clock)
            found = timer.blocked_autorange(min_run_time=SECONDS).times
            turns[one].append(Turn(1e3 * median(found), 1e3 * min(found)))
        on_step()
    return turns


def clock_for(threads: int, device: torch.device) -> Clock:
    """Seconds that count for a pass.

    With one thread those in which it runs: the system also gives the processor to others, which
    a wall clock takes for a slow network. Several threads, or a GPU, can only be waited for.
    """
    if device.type != "cpu":
        return _synchronized
    return time.thread_time if threads == 1 else time.perf_counter


def _synchronized() -> float:
    """Seconds, once the GPU has done what it was told."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def session(model: nn.Module, sample: Feed, threads: int = 1) -> Run:
    """A forward pass of the network in onnxruntime, on the CPU.

    Raises:
        Exception: of many kinds, where the network or one of its operators cannot be exported.
    """
    return opened(exported(model, sample), sample, threads)


def _in_onnxruntime(
    original: nn.Module, pruned: nn.Module, sample: Feed, progress: Progress
) -> Timing:
    import onnxruntime

    where = Timing(f"onnxruntime {onnxruntime.__version__}", batch=feed.samples(sample))
    try:
        with progress("export", 2) as bar:
            runs = []
            for model in (original, pruned):
                runs.append(session(model, sample))
                bar.step()
        with progress("time onnx", ROUNDS) as bar:
            return raced(where, runs[0], runs[1], bar.step)
    except Exception as error:  # an exporter may fail in any way on somebody's network
        return replace(where, problem=one_line(error)[:200])
