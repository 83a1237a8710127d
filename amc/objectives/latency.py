"""What a forward pass takes: measured in PyTorch and in onnxruntime, the networks taking turns.

Eager PyTorch pays for every operator's call, which hides in small networks what the arithmetic
costs; onnxruntime is nearer to what networks are deployed with. Both measure on this machine.
"""

import contextlib
import math
from dataclasses import dataclass
from statistics import quantiles

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


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch of one sample: median, interquartile range, fastest."""

    median: float
    iqr: float
    fastest: float


@dataclass(frozen=True)
class Timing:
    """Both networks in one runtime.

    Attributes:
        runtime: its name and version, its threads, or the device if that is not the CPU.
        ratio: time of the pruned network as part of the original's, the fastest of each: whatever
            else the machine does only adds to a time.
        problem: why nothing was measured; empty if it was.
    """

    runtime: str
    original: Latency | None = None
    pruned: Latency | None = None
    ratio: float | None = None
    problem: str = ""


def timings(original: nn.Module, pruned: nn.Module, sample: Feed) -> tuple[Timing, ...]:
    """Times of a forward pass in eval mode: eager PyTorch, and onnxruntime on the CPU.

    Args:
        original: never changed.
        pruned: neither.
        sample: what the networks are fed with, a batch of one.
    """
    threads, device = torch.get_num_threads(), feed.leaves(sample)[0].device.type
    eager = f"PyTorch {torch.__version__.split('+')[0]} eager, {_where(device, threads)}"
    with torch.inference_mode(), contextlib.ExitStack() as stack:
        for model in (original, pruned):
            stack.enter_context(in_eval_mode(model))
        first = raced(
            eager, lambda: feed.call(original, sample), lambda: feed.call(pruned, sample), threads
        )
    return first, _in_onnxruntime(original, pruned, sample)


def preferred(found: tuple[Timing, ...]) -> float:
    """The ratio in the runtime that is nearest to a deployment: the last that was measured."""
    ratios = [timing.ratio for timing in found if timing.ratio is not None]
    return ratios[-1]


def raced(runtime: str, original: Run, pruned: Run, threads: int) -> Timing:
    """Two forward passes that take turns: what slows the machine for a while slows both."""
    times: dict[str, list[float]] = {"original": [], "pruned": []}
    fastest = dict.fromkeys(times, math.inf)
    for _ in range(ROUNDS):
        for name, run in (("original", original), ("pruned", pruned)):
            timer = Timer("run()", globals={"run": run}, num_threads=threads)
            found = timer.blocked_autorange(min_run_time=SECONDS)
            times[name].append(1e3 * found.median)
            fastest[name] = min(fastest[name], 1e3 * min(found.times))
    before, after = (_latency(times[name], fastest[name]) for name in times)
    return Timing(runtime, before, after, after.fastest / before.fastest)


def session(model: nn.Module, sample: Feed, threads: int = 1) -> Run:
    """A forward pass of the network in onnxruntime, on the CPU.

    Raises:
        Exception: of many kinds, where the network or one of its operators cannot be exported.
    """
    return opened(exported(model, sample), sample, threads)


def _in_onnxruntime(original: nn.Module, pruned: nn.Module, sample: Feed) -> Timing:
    import onnxruntime

    runtime = f"onnxruntime {onnxruntime.__version__}, {_where('cpu', 1)}"
    try:
        return raced(runtime, session(original, sample), session(pruned, sample), 1)
    except Exception as error:  # an exporter may fail in any way on somebody's network
        return Timing(runtime, problem=one_line(error)[:200])


def _where(device: str, threads: int) -> str:
    if device != "cpu":
        return device.upper()
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _latency(times: list[float], fastest: float) -> Latency:
    low, middle, high = quantiles(times, n=4)
    return Latency(middle, high - low, fastest)
