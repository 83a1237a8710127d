"""A contest of all ways to find a strategy: same network, images, budget and evaluations."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from amc.allocators import ALLOCATORS
from amc.allocators.scores import Errors
from amc.config.compare import CompareConfig
from amc.config.composed import flags
from amc.config.sections.recovery import DistillConfig, TrainingConfig
from amc.config.train import record_settings
from amc.graph.plan import Plan, Strategy
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.reconstruction.sensitivity import sensitivity
from amc.reporting.comparison import Attempt
from amc.runs.terminal import Bar
from amc.runtime.files import read_json, write_json
from amc.search.answer import answer_of
from amc.search.problem import Problem
from amc.search.search import Settings, proposed_by, search
from amc.search.trials import Limits, Trials, differences
from amc.steps.cut import cut, original_outputs
from amc.steps.job import Job
from amc.steps.search import allocation_problem, evaluator
from amc.steps.setup import Network
from envs import Outcome
from envs.outcome import Episode

AT_ONCE = tuple(ALLOCATORS)
"""Methods that give one strategy: one evaluation, whatever the seed."""


@dataclass(frozen=True)
class Contest:
    """What all methods share; every search is on file from its first evaluation on.

    ``<method>-<seed>.jsonl`` is the record of a search, ``<method>-<seed>.json`` what it found.

    Attributes:
        config: of the comparison.
        job: data and task.
        network: before any cut.
        compressor: applies strategies.
        budget: what these may cost.
        folder: of the files.
        own: carries out plans, instead of the reconstruction layer by layer.
    """

    config: CompareConfig
    job: Job
    network: Network
    compressor: Compressor
    budget: Budget
    folder: Path
    own: Callable[[Plan], nn.Module] | None = None

    @cached_property
    def evaluate(self) -> Callable[[Strategy], Outcome]:
        """The proxy; what one method has evaluated is known to the next, which counts it anew."""
        return evaluator(self.job, self.compressor, TrainingConfig(), DistillConfig())

    @cached_property
    def errors(self) -> Errors:
        """Reconstruction errors of every group."""
        return sensitivity(self.compressor, self.budget)

    @cached_property
    def originals(self) -> OriginalOutputs:
        """What all cuts aim at."""
        return original_outputs(self.job, self.compressor)

    @cached_property
    def cuts(self) -> dict[str, Mapping[str, float]]:
        """Channels kept -> accuracy by split, of the strategies that were cut for real."""
        return {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What all searches depend on."""
        return {
            **record_settings(self.config),
            "preserve_ratio": self.config.preserve_ratio,
            "warmup_episodes": self.config.warmup_episodes,
            "choice": " ".join(flags(self.config.restrictions)),
            "weights": self.network.fingerprint,
        }

    def evaluations(self, method: str) -> int:
        """How many strategies the method may try with one seed."""
        return 1 if method in AT_ONCE else self.config.episodes

    def about(self, method: str, seed: int) -> dict[str, Any]:
        """What one search depends on."""
        own = {"agent": method, "seed": seed, "episodes": self.evaluations(method)}
        return {**self.settings, **own}

    def recorded(self, methods: Iterable[str]) -> int:
        """Evaluations that earlier, stopped comparisons have left behind."""
        names = [f"{m}-{s}.jsonl" for m in methods for s in range(self.config.seeds)]
        paths = [self.folder / name for name in names if (self.folder / name).is_file()]
        return sum(p.read_bytes().count(b"\n") - 1 for p in paths)  # the first is a header

    def attempt(self, method: str, seed: int, bar: Bar) -> Attempt:
        """Lets a method search once, unless it has."""
        path = self.folder / f"{method}-{seed}.json"
        content = read_json(path) if path.exists() else {}
        if not differences(content.get("about") or {}, self.about(method, seed)):
            attempt = Attempt(**content["attempt"])
            self.cuts.update({_key(attempt): attempt.cut} if attempt.cut else {})
            for _ in attempt.rewards:
                bar.step(f"best {attempt.best:.4f}")
            return attempt
        return self.keep(self.searched(method, seed, path.with_suffix(".jsonl"), bar))

    def searched(self, method: str, seed: int, record: Path, bar: Bar) -> Attempt:
        """Lets a method search once."""
        outside = 0.0

        def evaluated(strategy: Strategy) -> Outcome:
            nonlocal outside
            start = time.perf_counter()
            outcome = self.evaluate(strategy)
            outside += time.perf_counter() - start
            return outcome

        def show(episode: Episode) -> None:
            bar.step(f"reward {episode.reward:.4f}  best {episode.best:.4f}")

        start, limits = time.perf_counter(), Limits(self.evaluations(method))
        about = self.about(method, seed)
        trials = Trials(
            evaluated, self.job.reward, limits, record, about, show, self.budget.allows
        )
        asked = allocation_problem(
            self.job,
            self.network,
            self.compressor,
            self.budget,
            self.errors,
            self.config,
            limits.episodes,
            self.folder / f"{method}-{seed}",
            seed,
        )
        proposals = proposed_by(answer_of(method, asked))
        numbers = Settings(warmup_episodes=self.config.warmup_episodes)
        problem = Problem(self.budget, trials, self.errors)
        agent = search(problem, method, seed=seed, settings=numbers, proposals=proposals).agent
        seconds, best = time.perf_counter() - start - outside, trials.best
        rewards = tuple(min(e.reward, e.best) for e in trials.history)  # none of a mere probe
        accuracy, macs = best.outcome.score.accuracy, best.outcome.macs
        trainings = agent.trainings if agent else None
        return Attempt(
            method, seed, rewards, best.strategy, macs, accuracy, seconds, trainings=trainings
        )

    def applied(self, attempt: Attempt, step: Callable[[], None]) -> Attempt:
        """The attempt with the accuracy of its strategy cut for real."""
        key = _key(attempt)
        if key not in self.cuts:
            plan = self.compressor.plan(attempt.strategy)
            self.cuts[key] = self.accuracy(self._cut(plan))
        step()
        return self.keep(replace(attempt, cut=self.cuts[key]))

    def _cut(self, plan: Plan) -> nn.Module:
        if self.own:
            return cut(self.job, self.compressor, plan, own=self.own)
        return cut(self.job, self.compressor, plan, self.originals)

    def keep(self, attempt: Attempt) -> Attempt:
        """Writes what a search found."""
        about = self.about(attempt.method, attempt.seed)
        path = self.folder / f"{attempt.method}-{attempt.seed}.json"
        write_json(path, {"about": about, "attempt": asdict(attempt)})
        return attempt

    def accuracy(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on the images that the reward sees and on the test split."""
        splits = {"validation": self.job.validation, "test": self.job.data.test}
        return {n: self.job.scored(model, n, x).accuracy for n, x in splits.items()}


def _key(attempt: Attempt) -> str:
    return " ".join(str(count) for count in attempt.strategy.values())
