"""Finalists are trained a little before one of them is chosen, and the best goes on from there.

Each is cut for real and trained with the run's own recipe, a complete short cosine; the rounds are
those of `amc.gradual.halving`. Every training leaves its state in the run folder, and then what
came of it: the scores, and the weights as long as they may be needed. A run that was stopped goes
on from there to the same bits. One network is in memory at a time, beside the original; with
``--workers`` one in each process.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from amc.config.composed import flags
from amc.config.train import TrainConfig, record_settings
from amc.data import images_in
from amc.data.checked import preserving_random_state
from amc.gradual.halving import Round, decided, halved, rounds_of
from amc.gradual.verdict import account, told_of, verdict
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.runs.network import load_pruned, save_network
from amc.runs.terminal import Bar
from amc.runtime.files import read_json, write_json
from amc.search.trials import differences
from amc.search.workers import Measure, workers
from amc.steps.candidates import Begun, Candidates
from amc.steps.cut import cut, original_outputs, sound
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.steps.setup import Network
from amc.tasks.drop import PartScores, in_parts, part_scores
from amc.training.checkpoint import remove_states


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

    @property
    def name(self) -> str:
        """Of its files."""
        return f"final-{self.finalist}-{self.number}"


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
        return _Finals(job, network, chosen_by, found, config, folder).won()


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
        self._originals: OriginalOutputs | None = None
        self._recovery = Recovery(
            job, network.graph, network.model, config.training, config.distill, config.data, None,
            folder,
        )  # fmt: skip

    def won(self) -> Candidates:
        """The winner, whose training has begun."""
        task, say, found = self._job.task, self._job.terminal.say, self._found
        count, epochs = len(self._plans), self._config.search.finalist_epochs
        if known := len(list(self._folder.glob("finals/*/result.json"))):
            say(f"resume   {known} trainings of finalists are on record")
        plan = rounds_of(count, epochs)
        total = sum(many * length for many, length in plan)
        with (
            self._job.terminal.bar("finals", total) as bar,
            workers(self._apart, self._processes) as measure,
        ):

            def train(
                number: int, going: Sequence[int], length: int, before: int
            ) -> list[PartScores]:
                bar.show(f"finals round {number + 1} of {len(plan)}")
                trainings = [Training(one, number, length, before) for one in going]
                self._train(trainings, bar, measure)
                return [self._scores(one) for one in trainings]

            def told(number: int, one: Round, going: Sequence[int]) -> None:
                later = sum(max(len(going), many) * length for many, length in plan[number + 1 :])
                bar.total = bar.done + later  # which may have the first one besides
                self._forget(number, one, going)
                say(told_of(task, found.names, number, one, going))

            rounds = halved(count, epochs, train, told)
        winner, drop = decided(task, rounds[-1])
        say(verdict(task, found.names, rounds, winner, drop))
        last = rounds[-1]
        network = self._loaded(Training(winner, len(rounds) - 1, last.epochs, last.before))
        only = replace(
            found,
            strategies=[found.strategies[winner]],
            names=(),
            begun=Begun(network, last.before + last.epochs),
            finals=account(task, found, rounds, winner),
        )
        return only.having_trained(finals=self._macs(rounds))

    @property
    def _processes(self) -> int:
        return self._config.resources.workers if self._job.device.type == "cpu" else 1

    def _train(
        self, trainings: Sequence[Training], bar: Bar, measure: Measure[Training, float] | None
    ) -> None:
        """What of a round is not on record: one after the other, or some side by side."""
        left = [one for one in trainings if self._known(one) is None]
        shown, best, at_once = self._job.task.shown, -math.inf, self._processes
        self._prepare(left)

        def done(some: Sequence[Training]) -> None:
            for _ in range(sum(one.epochs for one in some)):
                bar.step(bar.note)

        done(trainings[len(left) :])
        for some in (left[i : i + at_once] for i in range(0, len(left), at_once)):
            if measure:
                scores = measure(some)
                done(some)
            else:
                scores = [self._made(one, lambda: bar.step(bar.note)) for one in some]
            best = max(best, *scores)
            name = self._found.names[some[-1].finalist]
            bar.show(note=f"{name} {shown(scores[-1])}  best {shown(best)}")

    def _prepare(self, left: Sequence[Training]) -> None:
        """What all trainings share, before processes are forked for them."""
        if left and self._config.distill.distill and not self._config.training.finetune:
            _ = self._recovery.teacher
        if left and not left[0].number and not self._found.cut:
            self._originals = original_outputs(self._job, self._compressor)

    def _made(self, one: Training, on_epoch: Callable[[], None] = lambda: None) -> float:
        """Trains a finalist; its scores and its weights are in the folder then."""
        plan, place = self._plans[one.finalist], self._place(one)
        if one.number:
            start = self._loaded(replace(one, number=one.number - 1))
        else:
            own = self._found.cut
            start = cut(self._job, self._compressor, plan, self._originals, own)
        with preserving_random_state(self._job.data.train):  # a loader's own order is that of all
            small = self._recovery.once(start, plan, one.epochs, one.name, one.before, on_epoch)
        scores = part_scores(self._job.task, small, in_parts(self._job.data.val))
        save_network(place, plan, small, {})
        write_json(place / "result.json", {"about": self._about(one), **asdict(scores)})
        remove_states(self._folder, one.name)
        return scores.mean

    def _apart(self, one: Training) -> float:
        """The same in a process of its own, which shows nothing."""
        self._job.terminal.hush()
        return self._made(one)

    def _loaded(self, one: Training) -> nn.Module:
        return load_pruned(self._network.model, self._place(one)).eval()

    def _known(self, one: Training) -> PartScores | None:
        """The scores of a training that is over."""
        path = self._place(one) / "result.json"
        known = read_json(path) if path.exists() else {}
        if differences(known.get("about") or {}, self._about(one)):
            return None
        return PartScores(tuple(known["scores"]), tuple(known["images"]))

    def _scores(self, one: Training) -> PartScores:
        found = self._known(one)
        assert found is not None
        return found

    def _forget(self, number: int, over: Round, going: Sequence[int]) -> None:
        """Drops what no training begins with any more."""
        self._originals = None
        last = not going
        for one in over.scores:
            training = Training(one, number, over.epochs, over.before)
            gone = [replace(training, number=number - 1)] if number else []
            gone += [] if last or one in going else [training]
            for place in map(self._place, gone):
                (place / "pruned.safetensors").unlink(missing_ok=True)

    def _place(self, one: Training) -> Path:
        return self._folder / "finals" / one.name

    def _about(self, one: Training) -> Mapping[str, Any]:
        """What the result of a training depends on."""
        config, found = self._config, self._found
        return {
            **record_settings(config),
            "preserve_ratio": config.preserve_ratio,
            "walks": config.search.walks or config.resources.workers,
            "seed": config.seed,
            "choice": " ".join(flags(config.restrictions)),
            "weights": self._network.fingerprint,
            "strategy": dict(found.strategies[one.finalist]),
            "training": [one.epochs, one.before],
        }

    def _macs(self, rounds: Sequence[Round]) -> int:
        """Forward MACs of all images that were trained on."""
        graph, images = self._network.graph, images_in(self._job.data.train)
        each = [graph.macs(plan) for plan in self._plans]
        return images * sum(each[one] * round.epochs for round in rounds for one in round.scores)
