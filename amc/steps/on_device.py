"""Strategies under a latency limit, timed on the device: a table is a beginning, not a proof.

The table says what a search may try. What it leads to is timed as a whole network beside the
original, the table is corrected by that, and the strategy made to fit; a few times suffice. Times
are never the same twice: those that were taken are kept in the run folder, and a run that goes on
from there is told the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Strategy
from amc.measuring.exported import Exported
from amc.measuring.machine import elsewhere
from amc.measuring.measure import Networks, eager
from amc.measuring.stopwatch import stopwatch, timed
from amc.objectives.budget import Budget
from amc.objectives.latency import clock_for
from amc.objectives.latency_table import LatencyTable, corrected
from amc.runtime import distributed, feed
from amc.runtime.files import read_json, write_json
from amc.steps.job import Job, Settings
from amc.steps.limits import latency, make_budget
from amc.steps.setup import Network

ROUNDS = 4
"""How often a strategy is timed and made to fit."""

NEAR = (0.97, 1.0)
"""Parts of the target between which a measured time is good."""

PASSES = 5
"""Turns that the original and a strategy have; the fastest of each counts."""


@dataclass(frozen=True)
class OnDevice:
    """Times networks where the latency table was measured.

    Attributes:
        job: of the run; for what a network is fed with.
        network: before any cut.
        table: as it was read.
        config: what is limited.
        folder: where times are kept.
    """

    job: Job
    network: Network
    table: LatencyTable
    config: Settings
    folder: Path

    @classmethod
    def of(cls, job: Job, network: Network, config: Settings, folder: Path) -> "OnDevice | None":
        """None where no latency is limited, or where the table is of another machine."""
        path = config.limits.latency_table
        if path is None:
            return None
        table = LatencyTable.load(path)
        if warning := elsewhere(table, job.device):
            job.terminal.say(f"warning  {warning}; its times are taken as they are")
            return None
        return cls(job, network, table, config, folder)

    def budget(self, given: Budget, table: LatencyTable) -> Budget:
        """The same limits by another table, the same channel multiple."""
        counts = replace(self.config.counts, channel_multiple=given.multiple)
        config = self.config.but(counts=counts)
        made = make_budget(self._graph, self._ratio(given), config, table)
        return replace(made, graph=given.graph, note=given.note)  # which may have other bounds

    def corrected(self, budget: Budget, strategy: Strategy) -> Budget:
        """The budget by a table that tells what the network of this strategy takes."""
        counts = self._graph.counts(strategy)
        with self.job.terminal.bar("latency"):
            return self.budget(budget, self._corrected(counts))

    def fitted(
        self, budget: Budget, strategies: Sequence[Strategy]
    ) -> tuple[list[Strategy], Budget]:
        """Each strategy, made to meet the limit; and the budget that knows their times."""
        found: list[Strategy] = []
        with self.job.terminal.bar("latency", len(strategies)) as bar:
            for strategy in strategies:
                fits = self._fitted(budget, strategy)
                found.append(fits)
                bar.step(f"{self.part(self._graph.counts(fits)):.1%} of the time")
        return found, self._known(budget)

    def part(self, counts: IntArray) -> float:
        """The time of the network with these channels, [T], as part of the original's."""
        key = ",".join(map(str, counts.tolist()))
        if key not in self._times:
            measured = distributed.on_rank_zero(lambda: repr(self._measured(counts)).encode())
            self._times[key] = float(measured)
            if distributed.rank() == 0:
                write_json(self._file, {"parts": self._times})
        return self._times[key]

    def _fitted(self, budget: Budget, strategy: Strategy) -> Strategy:
        """The nearest strategy of these proportions whose network takes no more than it may."""
        target, sizes = self._ratio(budget), self._graph.counts({})
        counts, tried = self._graph.counts(strategy), dict[bytes, tuple[float, IntArray]]()
        for _ in range(ROUNDS):
            part = self.part(counts)
            tried[counts.tobytes()] = part, counts
            if NEAR[0] * target <= part <= NEAR[1] * target:
                break
            own = self.budget(budget, self._corrected(counts))
            counts = own.complete(own.fitted((counts / sizes)[None])[0].tolist())
            if counts.tobytes() in tried:
                break
        within = [one for one in tried.values() if one[0] <= NEAR[1] * target]
        best = max(within, key=_part) if within else min(tried.values(), key=_part)
        return budget.strategy(best[1])

    def _corrected(self, counts: IntArray) -> LatencyTable:
        whole = self.table.of(self._graph)(self._graph.counts({})[None])[0]
        return corrected(self.table, self._graph, counts, self.part(counts) * float(whole))

    def _known(self, budget: Budget) -> Budget:
        """The budget in which networks that were timed cost what they took."""
        told = latency(self._graph, self.table)
        original = told(self._graph.counts({}))
        parts = dict(self._times)

        def of(counts: IntArray) -> FloatArray:
            found: FloatArray = told.of(counts)
            for row, one in enumerate(counts):
                if (part := parts.get(",".join(map(str, one.tolist())))) is not None:
                    found[row] = part * original
            return found

        measured = replace(told, of=of)
        if not budget.objective or not budget.objective.parts:
            return replace(budget, objective=measured)
        shown = tuple(
            (measured if one.name == "latency" else one, ratio)
            for one, ratio in budget.objective.parts
        )
        return replace(budget, objective=replace(budget.objective, parts=shown))

    def _ratio(self, budget: Budget) -> float:
        return next(ratio for one, ratio in budget.limits if one.name == "latency")

    def _measured(self, counts: IntArray) -> float:
        threads, device = self.table.setup.threads, self.job.device
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            watch = stopwatch(clock_for(threads, device))
            both = [self._graph.counts({}), counts]
            original, small = timed(self._networks, both, watch, PASSES)
        finally:
            torch.set_num_threads(before)
        return float(small / original)

    @property
    def _graph(self) -> ChannelGraph:
        return self.network.graph

    @property
    def _file(self) -> Path:
        return self.folder / "latency.json"

    @cached_property
    def _times(self) -> dict[str, float]:
        content = read_json(self._file) if self._file.exists() else {}
        parts = content.get("parts", {}) if isinstance(content, Mapping) else {}
        return {str(k): float(v) for k, v in parts.items()}

    @cached_property
    def _networks(self) -> Networks:
        setup = self.table.setup
        sample = feed.moved(self.job.samples(setup.batch), self.job.device)
        if setup.runtime == "onnxruntime":
            return Exported(self.network.model, self._graph, sample, setup.threads)
        return eager(self.network.model, self._graph, sample)


def _part(one: tuple[float, IntArray]) -> float:
    return one[0]
