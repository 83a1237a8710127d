"""What all steps of a run share: data, task, device, and where progress is shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, cycle
from typing import Any

import torch
from torch import Tensor, nn

from amc.allocators import Allocator
from amc.calibration.statistics import Batches, Sampling
from amc.config.apply import ApplyConfig
from amc.config.compare import CompareConfig
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.sections.job import DataConfig, ReconstructionConfig, RewardConfig
from amc.config.sections.recovery import TrainingConfig
from amc.config.train import TrainConfig
from amc.data import Data, load_data, unchecked, with_classes
from amc.graph.capture.export import Inputs
from amc.measuring.int8 import Judged
from amc.metrics import METRICS, Metric, load_metric
from amc.models.catalog import expected
from amc.runs.exports import Material
from amc.runs.terminal import Terminal
from amc.runtime import distributed, feed
from amc.runtime.distributed import choose_device
from amc.runtime.feed import Feed
from amc.schedules.curves import Schedule
from amc.tasks.batches import head, tail
from amc.tasks.evaluate import Score, evaluate
from amc.tasks.task import CLASSIFICATION, Task, load_task
from envs.rewards import Reward, divergence, reward_function

CALIBRATION_BATCH = 32
EVALUATION_BATCH = 256
EXPORT_BATCHES = 16
"""Of training inputs, for the ranges of activations in 8 bits."""

Settings = TrainConfig | ApplyConfig | LearnConfig | ParetoConfig | CompareConfig


@dataclass(frozen=True)
class Job:
    """What every step needs.

    Attributes:
        data: training, validation, test and calibration streams.
        task: what the network is for.
        device: where it runs.
        terminal: where progress is shown.
        reconstruction: how layers are solved for, and on how many images.
        judging: what a strategy is judged by.
        reward: the function of it.
        metric: which channels of a group stay.
        memory: bytes that statistics and outputs may take; None: no limit.
        seed: of everything random.
        allocator: of the user's own, where it is given as a function.
        schedule: likewise.
        named: whether a command line can name the network and the data.
        kept: whether the run's folder stays.
        teachers: original networks -> what they say of the training images, once it is known.
    """

    data: Data
    device: torch.device
    terminal: Terminal
    task: Task = CLASSIFICATION
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    judging: RewardConfig = field(default_factory=RewardConfig)
    reward: Reward = divergence
    metric: Metric = METRICS["lasso"]
    memory: int | None = None
    seed: int = 0
    allocator: Allocator | None = None
    schedule: Schedule | None = None
    named: bool = True
    kept: bool = True
    teachers: dict[nn.Module, nn.Module] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def images(self) -> list[tuple[Feed, Tensor]]:
        """Training images for statistics and batch norm, held in memory."""
        wanted = self.reconstruction.calibration_batches * CALIBRATION_BATCH
        found = head(self.data.calibration, wanted, CALIBRATION_BATCH)
        return [(feed.moved(x, self.device), y) for x, y in found]

    @cached_property
    def validation(self) -> list[tuple[Feed, Tensor]]:
        """Validation images that the reward sees, held in memory."""
        found = head(self.data.val, self.judging.reward_images, EVALUATION_BATCH)
        return [(feed.moved(x, self.device), y.to(self.device)) for x, y in found]

    @property
    def following(self) -> Iterator[tuple[Feed, Tensor]]:
        """The first `bn_samples` training images: those in memory, then more from the stream."""
        wanted = self.reconstruction.bn_samples or 0
        known = sum(len(labels) for _, labels in self.images)
        for inputs, labels in chain(self.images, tail(self.data.calibration, known)):

            def some(x: Tensor, count: int = wanted) -> Sequence[Tensor]:
                return torch.split(x[:count], CALIBRATION_BATCH)

            yield from zip(feed.parted(inputs, some), some(labels), strict=True)
            wanted -= len(labels)
            if wanted <= 0:
                return

    def for_network(self, network: nn.Module) -> "Job":
        """The job, with the task as this network does it."""
        return replace(self, task=self.task.for_network(network))

    @property
    def looks_at_movement(self) -> bool:
        """Whether the metric may ask for it: a function of the user's may."""
        return self.metric is METRICS["movement"] or self.metric not in METRICS.values()

    @property
    def example(self) -> Inputs:
        """What a network is traced with."""
        return Inputs(*feed.arguments(self.samples(2)), self.task.taken)

    def samples(self, count: int) -> Feed:
        """The first of the training images in memory, over again where there are fewer."""
        found = list[Feed]()
        for inputs, _ in cycle(self.images):
            found.append(feed.rows(inputs, slice(count)))
            count -= feed.samples(found[-1])
            if not count:
                break
        return feed.joined(found)

    @property
    def sampling(self) -> Sampling:
        """Which output positions become rows."""
        return Sampling(self.reconstruction.points_per_layer, self.seed)

    def tested(self, model: nn.Module) -> Score:
        """The score on the test split."""
        return self.scored(model, "test", self.data.test)

    def scored(self, model: nn.Module, what: str, images: Batches) -> Score:
        """The score on any images; ``what`` is their name where progress is shown."""
        with self.terminal.bar(what) as bar:
            shared = distributed.world_size() > 1  # then only a rank's own batches are made
            score = evaluate(model, images if shared else bar.over(images), task=self.task)
            bar.show(note=f"{self.task.name} {self.task.shown(score.accuracy)}")
            return score


def open_job(config: Settings, terminal: Terminal) -> Job:
    """The data, gone through once if they are of the user's own, with the task and the device.

    Raises:
        AmcError: something that the settings name cannot be used.
    """
    task = load_task(config.data.task)
    job = job_with(None, task, config, terminal)
    training: TrainingConfig = getattr(config, "training", TrainingConfig())
    batching = {"seed": job.seed, "batch_size": training.batch_size}
    models = [name for name in config.network.model.split(",") if name]
    return replace(job, data=open_data(config.data, task, terminal, models, **batching))


def material(job: Job) -> Material:
    """What the network that is left is exported with: training and validation inputs."""
    kept = job.images[:EXPORT_BATCHES]
    judged = Judged([x for x, _ in kept], [x for x, _ in job.validation], job.data.test, job.task)
    return Material(job.samples(CALIBRATION_BATCH), judged)


def job_with(data: Any, task: Task, config: Settings, terminal: Terminal) -> Job:
    """A job on data in memory.

    Raises:
        AmcError: there is no such device, reward or metric.
    """
    return Job(
        data,
        choose_device(config.machine.device),
        terminal,
        task,
        config.reconstruction,
        config.reward,
        reward_function(config.reward.reward, task),
        load_metric(config.reconstruction.of_channels),
        config.machine.memory_bytes,
        config.flat.get("seed", 0),
    )


def open_data(
    config: DataConfig, task: Task, terminal: Terminal, models: Sequence[str] = (), **batching: Any
) -> Data:
    """The data of a run; those of the user's own are gone through once, before anything long.

    Images are made as the networks want them, where those say so.

    Raises:
        AmcError: something is wrong with a batch, or with what gives them.
    """
    with terminal.bar("read data"):
        wanted = expected(models)
        data = load_data(config.data, labelled=task.classifies, preprocessing=wanted, **batching)
    return checked(data, terminal)


def checked(data: Data, terminal: Terminal) -> Data:
    """Data of which every batch has been looked at.

    Raises:
        AmcError: something is wrong with one.
    """
    streams = unchecked(data)
    if streams:
        with terminal.bar("check data", sum(one.left for one in streams)) as bar:
            for stream in streams:
                stream.read_through(bar.step)
    return with_classes(data)
