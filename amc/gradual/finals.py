"""Finalists are trained a little before one of them is chosen, and the best goes on from there.

Each is cut for real and trained with the run's own recipe, a complete short cosine; the rounds are
those of `amc.gradual.halving`. Every training leaves its state in the run folder, and what came of
it: the scores, and the weights as long as they may be needed. A run that was stopped goes on from
there to the same bits. One network is in memory at a time, beside the original; with ``--workers``
one in each process.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from amc.config.composed import flags
from amc.config.train import TrainConfig, record_settings
from amc.data import images_in
from amc.data.checked import preserving_random_state
from amc.gradual.halving import Round, decided, halved, rounds_of
from amc.graph.plan import Plan
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import OriginalOutputs
from amc.runs.network import load_pruned, save_network
from amc.runs.terminal import Bar
from amc.runtime.files import read_json, write_json
from amc.search.trials import differences
from amc.search.workers import workers
from amc.steps.candidates import Begun, Candidates
from amc.steps.cut import cut, original_outputs, sound
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.steps.setup import Network
from amc.tasks.drop import PartScores, in_parts, part_scores
from amc.tasks.task import Task
from amc.training.checkpoint import remove

Measure = Callable[[Sequence["Training"]], Iterator[PartScores]]


@dataclass(frozen=True)
class Training:
    """One finalist in one round.

    Attributes:
        finalist: its place, from 0.
        number: of the round, from 0.
        epochs: of this training.
        before: epochs of the rounds before.
    """

    finalist: int
    number: int
    epochs: int
    before: int


def finals(
    job: Job,
    network: Network,
    compressor: Compressor,
    found: Candidates,
    config: TrainConfig,
    folder: Path,
) -> Candidates:
    """The candidate that is left of those that are to be trained; all, where none is to be.

    Args:
        job: the run.
        network: before any cut.
        compressor: statistics, and which channels stay.
        found: strategies with names, of which the first is what the others are compared with.
        config: how to train.
        folder: of the run.

    Raises:
        AmcError: none of them can be carried out.
    """
    if not found.names:
        return found
    chosen_by = found.compressor or compressor
    kept = sound(job, chosen_by, found.strategies)
    names = [found.names[found.strategies.index(one)] for one in kept]
    found = replace(found, strategies=kept, names=names)
    if len(kept) == 1:
        job.terminal.say(f"finals   {names[0]} is the only strategy: there is nothing to decide")
        return found
    with preserving_random_state():
        return _Finals(job, network, chosen_by, found, config, folder).decided()


class _Finals:
    """The finals of one run."""

    def __init__(
        self,
        job: Job,
        network: Network,
        compressor: Compressor,
        found: Candidates,
        config: TrainConfig,
        folder: Path,
    ) -> None:
        self._job, self._network, self._compressor = job, network, compressor
        self._found, self._config, self._folder = found, config, folder
        self._plans = [compressor.plan(strategy) for strategy in found.strategies]
        self._recovery = Recovery(
            job, network.graph, network.model, config.training, config.distill, config.data, None,
            folder,
        )  # fmt: skip

    def decided(self) -> Candidates:
        """The winner, whose training has begun."""
        count, epochs = len(self._plans), self._config.search.finalist_epochs
        task, say = self._job.task, self._job.terminal.say
        with self._bar(count, epochs) as bar, self._measured(bar) as measure:

            def train(
                number: int, going: Sequence[int], length: int, before: int
            ) -> list[PartScores]:
                trainings = [Training(one, number, length, before) for one in going]
                self._say_where(bar, number, count, epochs, len(going))
                return list(measure(trainings))

            def told(one: Round) -> None:
                self._drop_losers(rounds=len(done))
                done.append(one)

            done: list[Round] = []
            rounds = halved(count, epochs, train, told)
        winner, drop = decided(task, rounds[-1])
        raise NotImplementedError
