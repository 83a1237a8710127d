"""The steps of a run, each with its progress bar: calibrate, search, cut, tune."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amc.calibration.calibrate import calibrate, reconstructed_layers
from amc.calibration.passes import passes
from amc.calibration.statistics import Batches, Sampling
from amc.config.train import TrainConfig
from amc.data import Data
from amc.graph.capture.export import Inputs
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan, Strategy
from amc.graph.tracing.proof import objection
from amc.metrics import METRICS, Evidence
from amc.objectives.budget import Budget
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import Originals, compress
from amc.runs.tensorboard import Journal
from amc.runs.terminal import Terminal
from amc.runtime import distributed, feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.runtime.names import check_reward
from amc.runtime.user_code import blamed, load_function
from amc.search.search import Errors, Found, Policy, Problem, Settings, proxy, search
from amc.search.trials import Limits, Trials
from amc.search.workers import workers
from amc.tasks.batches import head, tail
from amc.tasks.evaluate import Score, evaluate, softened
from amc.tasks.task import CLASSIFICATION, Task
from amc.training.short_training import Quick
from envs import REWARDS, Outcome, Reward
from envs.outcome import Episode
from envs.rewards import UNCONSTRAINED

CALIBRATION_BATCH = 32
EVALUATION_BATCH = 256
CHOOSING = 0.25
"""Share of the calibration images that the finalists are cut on: a fifth of them ranked 15
strategies of ResNet-20 on glyphs as all did (Spearman 0.83 and 0.86 with the test loss)."""

DECISIVE = (
    "model", "width", "data", "preserve_ratio", "selector", "channel_multiple", "min_ratio",
    "calibration_batches", "points_per_layer", "episodes", "agent", "warmup_episodes", "regime",
    "distill", "reward_steps", "reward", "reward_images",
    "bn_adapt", "batch_size", "seed",
)  # fmt: skip
"""Settings that a search depends on: a record made with others is refused."""


def decisive(config: TrainConfig) -> dict[str, Any]:
    """What a search depends on, for its record; a task only where it is not the built-in one."""
    settings = {name: getattr(config, name) for name in DECISIVE}
    return settings if config.classifies else {**settings, "task": config.task}


@dataclass(frozen=True)
class Pipeline:
    """What every step needs: settings, data, somewhere to show progress, the network's task."""

    config: TrainConfig
    data: Data
    device: torch.device
    terminal: Terminal
    task: Task = CLASSIFICATION

    @cached_property
    def images(self) -> list[tuple[Feed, Tensor]]:
        """Training images for statistics and batch norm, held in memory."""
        wanted = self.config.calibration_batches * CALIBRATION_BATCH
        found = head(self.data.calibration, wanted, CALIBRATION_BATCH)
        return [(feed.moved(x, self.device), y) for x, y in found]

    @cached_property
    def validation(self) -> list[tuple[Feed, Tensor]]:
        """Validation images that the reward sees, held in memory."""
        found = head(self.data.val, self.config.reward_images, EVALUATION_BATCH)
        return [(feed.moved(x, self.device), y.to(self.device)) for x, y in found]

    @property
    def following(self) -> Iterator[tuple[Feed, Tensor]]:
        """The first `bn_samples` training images: those in memory, then more from the stream."""
        wanted = self.config.bn_samples or 0
        known = sum(len(labels) for _, labels in self.images)
        for inputs, labels in chain(self.images, tail(self.data.calibration, known)):

            def some(x: Tensor, count: int = wanted) -> Sequence[Tensor]:
                return torch.split(x[:count], CALIBRATION_BATCH)

            yield from zip(feed.parted(inputs, some), some(labels), strict=True)
            wanted -= len(labels)
            if wanted <= 0:
                return

    @property
    def example(self) -> tuple[Any, ...]:
        """Positional inputs to trace a network with."""
        return feed.arguments(self.samples(2))[0]

    @property
    def named(self) -> dict[str, Any]:
        """Keyword inputs to trace a network with."""
        return feed.arguments(self.samples(2))[1]

    def samples(self, count: int) -> Feed:
        """The first training images."""
        return feed.rows(self.images[0][0], slice(count))

    @property
    def sampling(self) -> Sampling:
        """Which output positions become rows."""
        return Sampling(self.config.points_per_layer, self.config.seed)

    def calibrate(self, graph: ChannelGraph, model: nn.Module) -> Compressor:
        """Statistics of the network, and what applies strategies with them."""
        limit, shared = self.config.memory_bytes, len(list(distributed.own(self.images)))
        rounds = passes(graph, reconstructed_layers(graph), limit)
        with self.terminal.bar("calibrate", len(rounds) * shared) as bar:
            stats = calibrate(graph, model, self.images, self.sampling, bar.step, limit)
        evidence = Evidence(graph, model, stats, self.config.seed)
        select = partial(METRICS[self.config.selector], evidence)
        return Compressor(graph, model, stats, select, limit)

    def search(
        self,
        budget: Budget,
        compressor: Compressor,
        errors: Errors,
        reward: Reward,
        journal: Journal,
        record: Path,
        about: Mapping[str, Any],
        policy: Policy | None = None,
        known: Sequence[Strategy] = (),
    ) -> Found:
        """The best strategy within the budget.

        Args:
            budget: what a strategy may cost.
            compressor: what cuts.
            errors: of every group at its allowed counts.
            reward: of an outcome.
            journal: is told of every episode.
            record: file that makes it possible to go on after a stop.
            about: what the outcomes depend on besides the settings.
            policy: learned earlier, to begin with.
            known: strategies to begin with, see `search`.
        """
        config = self.config
        limits = Limits(
            config.episodes, config.time_limit and 60 * config.time_limit, config.patience
        )
        walks = config.walks or config.workers
        settings = {**decisive(config), "walks": walks}
        settings["policy"] = policy and policy.digest
        with self.terminal.bar("search", config.episodes) as bar:
            worth = self.worth(compressor)

            def show(episode: Episode) -> None:
                journal.episode(episode)
                bar.step(f"reward {episode.reward:.4f}  best {episode.best:.4f}")

            trials = Trials(worth, reward, limits, record, {**settings, **about}, show)
            if trials.recorded:
                self.terminal.say(f"resume   {trials.recorded} episodes are on record")
            with workers(worth, config.workers) as measure:
                try:
                    found = search(
                        Problem(budget, trials, errors),
                        config.agent,
                        seed=config.seed,
                        settings=Settings(warmup_episodes=config.warmup_episodes),
                        policy=policy,
                        known=known,
                        measure=measure,
                        walks=walks,
                        on_learn=journal.learned,
                    )
                except KeyboardInterrupt:
                    if trials.history:
                        self.terminal.say(so_far(trials, budget, self.task))
                    raise
        if found.agent and not found.agent.trainings:
            tried = len(found.history)
            self.terminal.say(f"agent    has not learned: all {tried} episodes were warm-up")
        return found

    def worth(self, compressor: Compressor) -> Callable[[Strategy], Outcome]:
        """What an episode measures: the network after the cut, or after a little training."""
        config, quick = self.config, None
        if config.regime == "finetune":
            teacher = compressor.model if config.distill else None
            quick = Quick.of(
                self.data.train,
                config.reward_steps,
                teacher,
                self.task,
                learning_rate=config.learning_rate,
                temperature=config.temperature,
                weight=config.distill_weight,
                clip=config.clip,
            )
        return proxy(compressor, self.validation, config.bn_adapt, quick, self.task)

    def originals(self, compressor: Compressor, share: float = 1.0) -> Originals:
        """What the network computes before it is cut, on a share of the images."""
        images = self.images[: math.ceil(share * len(self.images))]
        limit = self.config.memory_bytes
        with self.terminal.bar("originals"):
            return Originals(compressor.graph, compressor.model, images, self.sampling, limit)

    def cut(self, compressor: Compressor, plan: Plan, originals: Originals) -> nn.Module:
        """The network under a plan: reconstructed layer by layer, batch norm following.

        On as many images as the statistics, or on `bn_samples` once all layers are solved.

        Raises:
            AmcError: it would not compute what the masked network does.
        """
        if why := self.objection(compressor, plan):
            raise AmcError(refused(why))
        small, wanted = self._cut(compressor, plan, originals), self.config.bn_samples
        known = sum(len(labels) for _, labels in self.images)
        if self.config.bn_adapt and wanted not in (None, known):
            with self.terminal.bar("batch norm"):
                adapt_batchnorm(small, self.following)
        return small

    def _cut(self, compressor: Compressor, plan: Plan, originals: Originals) -> nn.Module:
        layers = len(compressor.losing(plan))
        with self.terminal.bar("cut", layers) as bar:
            return compress(
                compressor, plan, originals, self.config.bn_adapt, lambda _: bar.step()
            )

    def cut_best(
        self,
        compressor: Compressor,
        strategies: Sequence[Strategy],
        reward: Reward,
        originals: Originals | None = None,
    ) -> tuple[Strategy, Plan, nn.Module]:
        """Cuts the strategy for real that has the highest reward once it is cut for real.

        The search judges on cached statistics; what counts is the network after the final cut. To
        choose among several, a part of the images will do. ``originals``: if they are known.

        Raises:
            AmcError: none of them gives a network that computes what the masked one does.
        """
        strategies = self._sound(compressor, strategies)
        chosen = strategies[0]
        if len(strategies) > 1:
            rough, worth, count = self.originals(compressor, CHOOSING), [], len(strategies)
            with self.terminal.bar(f"cut 1 of {count}", count) as bar:
                wished = self.wished(compressor.model)
                for number, strategy in enumerate(strategies, 1):
                    bar.show(f"cut {number} of {count}")
                    worth.append(self.cut_worth(compressor, strategy, rough, reward, wished))
                    bar.step(f"reward {worth[-1]:.4f}  best {max(worth):.4f}")
            chosen = strategies[int(np.argmax(np.nan_to_num(worth, nan=-np.inf)))]
        plan = compressor.plan(chosen)
        return chosen, plan, self.cut(compressor, plan, originals or self.originals(compressor))

    def tested(self, model: nn.Module) -> Score:
        """On the test split."""
        return self.validated(model, "test", self.data.test)

    def validated(self, model: nn.Module, what: str, images: Batches) -> Score:
        """On any images; ``what`` is their name where progress is shown."""
        with self.terminal.bar(what) as bar:
            shared = distributed.count() > 1  # then only a rank's own batches are made
            score = evaluate(model, images if shared else bar.over(images), task=self.task)
            bar.show(note=f"{self.task.name} {self.task.shown(score.accuracy)}")
            return score

    def objection(self, compressor: Compressor, plan: Plan) -> str:
        """What is wrong with the network under a plan, tried on random weights; mostly nothing."""
        inputs = Inputs(self.example, self.named)
        return objection(compressor.model, inputs, compressor.graph, plan)

    def _sound(self, compressor: Compressor, strategies: Sequence[Strategy]) -> Sequence[Strategy]:
        whys = [self.objection(compressor, compressor.plan(s)) for s in strategies]
        sound = [s for s, why in zip(strategies, whys, strict=True) if not why]
        first = next(filter(None, whys), "")
        if not sound:
            raise AmcError(refused(first))
        if first:
            left = len(strategies) - len(sound)
            self.terminal.say(f"skipped  {left} of {len(strategies)} strategies, {first}")
        return sound

    def wished(self, model: nn.Module) -> list[Tensor]:
        """Predictions of the original network that a reward compares with."""
        return softened(model, self.validation, self.task)

    def cut_worth(
        self,
        compressor: Compressor,
        strategy: Strategy,
        originals: Originals,
        reward: Reward,
        wished: Sequence[Tensor],
    ) -> float:
        """The reward of a strategy after the final cut."""
        graph, plan = compressor.graph, compressor.plan(strategy)
        small = self._cut(compressor, plan, originals)
        score = evaluate(small, self.validation, wished=wished, task=self.task)
        return reward(Outcome(score, graph.macs(plan), graph.params(plan)))


def refused(why: str) -> str:
    """A plan that must not be carried out, in one line."""
    return f"the plan is not carried out: {why}; --exclude keeps layers whole"


def so_far(trials: Trials, budget: Budget, task: Task) -> str:
    """The state of a search that was stopped, in one line."""
    best = trials.best
    return (
        f"stopped after {len(trials.history)} of {trials.limits.episodes} episodes; best so far: "
        f"episode {best.number}, reward {best.reward:.4f}, {task.name} "
        f"{task.shown(best.outcome.score.accuracy)}, MACs "
        f"{best.outcome.macs / budget.original:.3f}"
    )


def reward_function(name: str, task: Task = CLASSIFICATION) -> Reward:
    """A built-in reward or the user's own, ``module:function`` of an `envs.Outcome`.

    Raises:
        AmcError: there is no such reward, or it has no meaning for the task.
    """
    if name in UNCONSTRAINED and not task.percent:
        raise AmcError(f"--reward {name} needs a score that is a part of one, not {task.name}")
    if name in REWARDS:
        return REWARDS[name]
    check_reward(name)
    function = load_function(name)

    def reward(outcome: Outcome) -> float:
        with blamed(f"--reward {name}:"):
            value = float(function(outcome))
        if not math.isfinite(value):
            raise AmcError(f"--reward {name}: must return a finite number, got {value}")
        return value

    return reward
