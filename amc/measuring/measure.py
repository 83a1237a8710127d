"""The latency table of a network: timed, fitted, and tried on strategies that it has not seen."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from amc.exporters.onnx_program import Run
from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.shrink import shrink
from amc.measuring.exported import first_channels
from amc.measuring.fit import fitted
from amc.measuring.samples import samples
from amc.measuring.stopwatch import Stopwatch, timed
from amc.objectives.latency_table import LatencyTable, Setup, rewarded
from amc.runtime import feed
from amc.runtime.feed import Feed
from amc.tasks.evaluate import in_eval_mode

Networks = Callable[[IntArray], Run]
"""Makes the forward pass of the network with counts [T]."""

FIT_SEED, TRIAL_SEED = 0, 1
"""Of what is fitted to, and of what the table is tried on."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        networks: that are timed and fitted to.
        trials: that only tell the error.
        passes: turns of every network.
    """

    networks: int
    trials: int = 32
    passes: int = 2

    @property
    def turns(self) -> int:
        """Units of work in all."""
        return self.passes * (self.networks + self.trials)


@dataclass(frozen=True, eq=False)
class Measured:
    """A latency table and what it was tried on.

    Attributes:
        table: with its error.
        multiple: that the times reward.
        tried: the multiple of the counts that it was tried on.
        ms: measured and told milliseconds of these strategies, [V] each.
        original: milliseconds of the original network.
    """

    table: LatencyTable
    multiple: int
    tried: int
    ms: tuple[FloatArray, FloatArray]
    original: float


def measured(
    networks: Networks,
    graph: ChannelGraph,
    setup: Setup,
    watch: Stopwatch,
    effort: Effort,
    multiple: int | None,
    min_ratio: float,
    on_step: Callable[[], object] = lambda: None,
) -> Measured:
    """Fills a table.

    Args:
        networks: what is timed.
        graph: of the network.
        setup: where this is.
        watch: what measures.
        effort: how much is measured.
        multiple: of the kept channels; None: several are timed, and the rewarded one is tried.
        min_ratio: no group keeps less than this part.
        on_step: called `Effort.turns` times.
    """
    counts = samples(graph, effort.networks, multiple, min_ratio, FIT_SEED)
    found = timed(networks, counts, watch, effort.passes, on_step)
    fit = fitted(graph, np.array(counts), found)
    block = rewarded(fit, graph)
    table = LatencyTable(setup, fit.constant, fit.tables(), fit.curve, block)
    tried = multiple or block
    trials = [
        one
        for one in samples(graph, 2 * effort.trials, tried, min_ratio, TRIAL_SEED)
        if (one != counts[0]).any()
    ][: effort.trials] or counts[:1]
    real = timed(networks, trials, watch, effort.passes, on_step)
    told = table.of(graph)(np.array(trials))
    wrong = np.abs(told / real - 1)
    table = replace(table, error=(float(np.median(wrong)), float(wrong.max())))
    return Measured(table, block, tried, (real, told), fit.curve[-1][1])


def eager(model: nn.Module, graph: ChannelGraph, sample: Feed) -> Networks:
    """Networks in PyTorch, operator by operator."""

    def network(counts: IntArray) -> Run:
        cut = shrink(model, first_channels(graph, counts)).eval()
        on_gpu = feed.leaves(sample)[0].is_cuda

        def run() -> object:
            with torch.inference_mode(), in_eval_mode(cut):
                found = feed.call(cut, sample)
            if on_gpu:
                torch.cuda.synchronize()
            return found

        return run

    return network
