"""Networks of every size from one policy and one set of statistics."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from amc.allocators.scores import Errors
from amc.config.composed import flags
from amc.config.many_budgets import ParetoConfig
from amc.config.train import record_settings
from amc.exporters.source.write import write_source
from amc.gradual.recover import recover
from amc.graph.plan_files import save_strategy
from amc.objectives.budget import Budget
from amc.objectives.latency import preferred, timings
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.reconstruction.sensitivity import sensitivity
from amc.reporting.pareto_front import Point
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.network import save_network
from amc.runtime.feed import Feed
from amc.runtime.files import read_json, safe_name, write_json
from amc.search.policies import known_strategies
from amc.search.problem import proposed, starts
from amc.search.search import Policy
from amc.search.trials import differences
from amc.steps.cut import calibrate, cut_best, original_outputs
from amc.steps.job import Job
from amc.steps.limits import make_budget
from amc.steps.setup import Network
from amc.steps.shared import Shared, shared_for
from amc.tasks.batches import tail
from amc.tasks.evaluate import Score
from amc.training.checkpoint import remove_states

FEWEST = 100
"""Images that are enough to verify a drop on."""

RESOLUTION = 0.005
"""Targets that are nearer to each other than this are not told apart."""


@dataclass(frozen=True)
class Sweep:
    """What all points share."""

    config: ParetoConfig
    job: Job
    network: Network
    policy: Policy
    folder: Path

    @cached_property
    def compressor(self) -> Compressor:
        """One set of statistics; with the shared weights, where these judge."""
        return self.shared.weights if self.shared else self._statistics

    @cached_property
    def _statistics(self) -> Compressor:
        return calibrate(self.job, self.network.graph, self.network.model)

    @cached_property
    def shared(self) -> Shared | None:
        """One network that was trained for all budgets; the policy was learned on it."""
        config, job, network = self.config, self.job, self.network
        if job.judging.regime != "shared":
            return None
        place = config.learning.folder / safe_name(network.name)
        given = [make_budget(network.graph, ratio, config) for ratio in config.ratios]
        training, distill, data = config.training, config.distill, config.data
        return shared_for(job, network, self._statistics, given, data, place, training, distill)

    def errors(self, budget: Budget) -> Errors:
        """Reconstruction errors of every group, at the counts that the budget allows."""
        if budget.multiple not in self._errors:
            self._errors[budget.multiple] = sensitivity(self.compressor, budget)
        return self._errors[budget.multiple]

    @cached_property
    def _errors(self) -> dict[int, Errors]:
        return {}

    @cached_property
    def originals(self) -> OriginalOutputs:
        """What all cuts aim at."""
        return original_outputs(self.job, self.compressor)

    @cached_property
    def unseen(self) -> tuple[str, Score]:
        """The split that drops are verified on, and the original network's score there."""
        beyond = self._score(self.network.model, self._beyond(), "validation")
        if beyond.images >= FEWEST:
            return "validation", beyond
        return "test", self._score(self.network.model, self.job.data.test)

    @property
    def held_out(self) -> str:
        """The images that accuracies are measured on, in words."""
        split, score = self.unseen
        return f"{score.images} {split} images"

    @cached_property
    def original(self) -> Point:
        """The network before any cut."""
        model, graph = self.network.model, self.network.graph
        test = self._score(model, self.job.data.test).accuracy
        return Point(1.0, graph.macs(), graph.params(), 1.0, self.unseen[1].accuracy, test)

    def budget(self, ratio: float) -> Budget:
        """What a strategy may cost at this target."""
        made = make_budget(self.network.graph, ratio, self.config)
        return replace(made, graph=self.shared.band.graph) if self.shared else made

    def place(self, ratio: float) -> Path:
        """The folder of a point."""
        return self.folder / "points" / f"{ratio:g}"

    def point(self, ratio: float) -> Point:
        """The network for a target, from an earlier sweep or cut now."""
        about, path = {**self._settings, "target": ratio}, self.place(ratio) / "point.json"
        known = read_json(path) if path.exists() else {}
        if not differences(known.get("about") or {}, about):
            return Point(**known["point"])
        point = self._cut(ratio, about)
        write_json(path, {"about": about, "point": asdict(point)})
        return point

    def _cut(self, ratio: float, about: dict[str, Any]) -> Point:
        """Walks the policy, cuts the best of what it knows, measures."""
        graph, budget, place = self.network.graph, self.budget(ratio), self.place(ratio)
        errors = self.errors(budget)
        walked = proposed(self.policy, budget, errors)
        known = known_strategies(self.policy, budget)
        candidates = [walked, *known, *starts(budget, errors)]
        if self.shared:
            plan, small = cut_best(self.job, self.compressor, candidates, own=self.shared.cut)
        else:
            originals = self.originals
            plan, small = cut_best(self.job, self.compressor, candidates, originals=originals)
        if self.config.training.finetune_epochs:
            log = TensorBoardLog(place, graph.sizes, graph.macs(), self.job.task)
            small, *_ = recover(self.job, self.network, small, plan, self.config, place, log)
            remove_states(place)
            log.close()
        save_strategy(place / "strategy.json", plan.strategy, graph.channels, about)
        save_network(place, plan, small, about)
        self.job.terminal.say(*write_source(place, small, self.job.example))
        times = timings(self.network.model, small, self.job.samples(1), self.job.terminal.bar)
        split = self._beyond() if self.unseen[0] == "validation" else self.job.data.test
        return Point(
            ratio,
            graph.macs(plan),
            graph.params(plan),
            preferred(times),
            self._score(small, split).accuracy,
            self._score(small, self.job.data.test).accuracy,
        )

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What a point depends on besides its target."""
        return {
            **record_settings(self.config),
            "seed": self.config.seed,
            "choice": " ".join(flags(self.config.restrictions)),
            "policy": self.policy.digest,
            "weights": self.network.fingerprint,
            "baked": self.network.baked,
        }

    def _score(
        self, model: nn.Module, images: Iterable[tuple[Feed, Tensor]], what: str = "test"
    ) -> Score:
        return self.job.scored(model, what, images)

    def _beyond(self) -> Iterator[tuple[Feed, Tensor]]:
        """Validation images that no reward has seen."""
        return tail(self.job.data.val, self.job.judging.reward_images)


def closer(
    points: dict[float, Point], least: float, steps: int, point: Callable[[float], Point]
) -> None:
    """Halves the gap between the smallest network that is good enough and the next smaller one.

    Args:
        points: by target; what is tried is added.
        least: accuracy that is good enough.
        steps: how many more targets are tried at most.
        point: makes the network of a target.
    """
    for _ in range(steps):
        good = [ratio for ratio, one in points.items() if one.accuracy >= least]
        high = min(good, default=1.0)
        low = max((ratio for ratio in points if ratio < high), default=high)
        if high - low < 2 * RESOLUTION:
            return
        middle = round((low + high) / 2, 4)
        points[middle] = point(middle)
