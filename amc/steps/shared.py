"""``--regime shared``: one training for all strategies, so that the reward is a trained score.

The network is cut to some multiple of the target, and what is left is trained so that every slice
of it works. A strategy is then judged by one pass of its slice over validation images, and the
final training starts from the slice of the best one.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc.config.sections.job import DataConfig
from amc.config.sections.recovery import DistillConfig, TrainingConfig
from amc.data import images_in
from amc.graph.plan import Plan, Strategy
from amc.graph.shrink import duplicate, shrink
from amc.objectives.budget import Budget
from amc.proposals.band import DRAWN, Band
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.sensitivity import sensitivity
from amc.reconstruction.shared_weights import SharedWeights, nested
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runtime import weights
from amc.steps.cut import cut
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.steps.setup import Network
from amc.tasks.evaluate import evaluate
from amc.training.checkpoint import Checkpoint
from amc.training.distillation import Distillation, Loss
from amc.training.recipe import Recipe
from amc.training.slimmable import Slices, Slimmable
from amc.training.teacher_outputs import Remembering
from amc.training.trainable import trainable
from amc.training.trainer import DivergedError, Step, train

FILE, STATE, AGAIN = (
    "shared.safetensors", "training-shared.safetensors", "training-shared-again.safetensors",
)  # fmt: skip
"""The trained weights, and the states of their trainings, in the folder of the run."""


@dataclass(frozen=True)
class Shared:
    """What came of a training for all strategies.

    Attributes:
        job: of the run.
        weights: applies strategies as slices of the trained network.
        band: what it was trained for.
    """

    job: Job
    weights: SharedWeights
    band: Band

    def cut(self, plan: Plan) -> nn.Module:
        """A new network under a plan of the original, batch norm re-estimated.

        Raises:
            AmcError: the plan keeps channels that the shared network has not.
        """
        small = self.weights.sliced(plan)
        follow = self.job.reconstruction.bn_samples is not None
        with self.job.terminal.bar("batch norm"):
            images = self.job.following if follow else self.job.images
            return adapt_batchnorm(small, images).eval()

    @cached_property
    def account(self) -> dict[str, Any]:
        """The score of the widest strategy, the uniform ones and the narrowest; for the report."""
        graph, judging = self.weights.graph, self.job.judging
        known = [("widest", self.band.widest), ("narrowest", self.band.narrowest)]
        known[1:1] = [
            (f"uniform {budget.preserve_ratio:g}", centres[0])
            for budget, centres in zip(self.band.budgets, self.band.centres, strict=True)
        ]
        scores = {}
        for name, strategy in known:
            macs = graph.cost.macs(graph.counts(strategy)) / graph.macs()
            scores[name] = {"macs": round(macs, 6), self.job.task.name: self.score(strategy)}
        return {"epochs": judging.shared_epochs, "ratio": judging.shared_ratio, "scores": scores}

    @property
    def trained_macs(self) -> int:
        """Forward MACs of all images in the training; those that are drawn taken as uniform."""
        graph, (usual, *_) = self.weights.graph, (centres[0] for centres in self.band.centres)
        step = [self.band.widest, self.band.narrowest, *[usual] * DRAWN]
        macs = sum(graph.cost.macs(graph.counts(strategy)) for strategy in step)
        return macs * images_in(self.job.data.train) * self.job.judging.shared_epochs

    def score(self, strategy: Strategy) -> float:
        """The score of a slice on the images that the reward sees, by batch statistics."""
        small = self.weights.view(strategy)
        return evaluate(small, self.job.validation, True, task=self.job.task).accuracy

    def line(self) -> str:
        """The account, for people."""
        task = self.job.task
        shown = [
            f"{task.shown(one[task.name])} {name} ({one['macs']:.1%} of the MACs)"
            for name, one in self.account["scores"].items()
        ]
        return f"shared   {task.name} on validation images: {', '.join(shown)}"


def shared_for(
    job: Job,
    network: Network,
    compressor: Compressor,
    budgets: Sequence[Budget],
    data: DataConfig,
    folder: Path,
    training: TrainingConfig | None = None,
    distill: DistillConfig | None = None,
    log: TensorBoardLog | None = None,
) -> Shared | None:
    """Shared weights for some budgets, where these judge strategies; see `share`.

    Args:
        job: the run.
        network: before any cut.
        compressor: statistics of it.
        budgets: of it.
        data: their name.
        folder: for the weights, and the state of their training; made if it is missing.
        training: how to train; as usual if it is not said.
        distill: likewise.
        log: is told of every step.
    """
    if job.judging.regime != "shared":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    recovery = Recovery(
        job,
        network.graph,
        network.model,
        training or TrainingConfig(),
        distill or DistillConfig(),
        data,
        log,
        folder,
    )
    return share(recovery, compressor, budgets)


def share(recovery: Recovery, compressor: Compressor, budgets: Sequence[Budget]) -> Shared:
    """Trains one network for all strategies within some budgets; or loads it from the folder.

    Args:
        recovery: how to train, on which data, in which folder.
        compressor: statistics of the original, and which channels stay.
        budgets: of the original.

    Raises:
        AmcError: the widest network cannot be cut, or trained.
    """
    job, judging = recovery.job, recovery.job.judging
    band = Band.around(budgets, judging.shared_ratio)
    chosen = nested(compressor, band.graph, band.fewest)
    with job.terminal.bar("errors", sum(len(one.options) for one in band.budgets)) as bar:
        errors = tuple(sensitivity(chosen, budget, bar.step) for budget in band.budgets)
    band, plan = replace(band, errors=errors), chosen.plan(band.widest)
    network = trained(recovery, chosen, plan, band)
    shared = Shared(job, SharedWeights(chosen, network, plan), band)
    job.terminal.say(shared.line())
    return shared


def trained(recovery: Recovery, compressor: Compressor, plan: Plan, band: Band) -> nn.Module:
    """What the widest plan leaves, trained for all strategies of the band.

    A training that leaves the uniform slices worse than the cut is done once more at a tenth of
    the rate; where that does not help either, the network stays as it was cut.
    """
    job, rate = recovery.job, recovery.training.rate_for(recovery.graph)
    recipe = recovery.recipe(job.judging.shared_epochs, rate)
    about = about_of(recovery, recipe, plan, band)
    finished, small = Checkpoint(recovery.folder / FILE, about), shrink(compressor.model, plan)
    if known := finished.load():
        small.load_state_dict(known)
        return small.eval()
    start = cut(job, compressor, plan) if plan.cuts else duplicate(compressor.model)

    def score(network: nn.Module) -> float:
        shared = Shared(job, SharedWeights(compressor, network, plan), band)
        return sum(shared.score(centres[0]) for centres in band.centres) / len(band.centres)

    loss, least = slimmable(recovery, compressor, plan, band), score(start)
    for now, name in ((rate, STATE), (rate / 10, AGAIN)):
        again = replace(recipe, learning_rate=now)
        state = Checkpoint(recovery.folder / name, {**about, "learning_rate": now})
        small = _once(recovery, duplicate(start), plan, again, loss, state)
        if score(small) >= least:
            break
        job.terminal.say(f"again    a rate of {now:g} makes the slices no better than the cut")
    else:
        job.terminal.say("kept     the shared network stays as it was cut")
        small = start
    finished.save({name: held.detach().clone() for name, held in small.state_dict().items()})
    for name in (STATE, AGAIN):
        (recovery.folder / name).unlink(missing_ok=True)
    return small


def _once(
    recovery: Recovery,
    network: nn.Module,
    plan: Plan,
    recipe: Recipe,
    loss: Slimmable,
    state: Checkpoint,
) -> nn.Module:
    """The network, trained in place; as it was given where the loss is no number."""
    job, epochs, start = recovery.job, recipe.epochs, duplicate(network)
    device, steps = job.device, epochs * len(job.data.train)
    with (
        job.terminal.bar(f"share epoch 1 of {epochs}", steps) as bar,
        trainable(network, plan),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):

        def show(step: Step) -> None:
            if recovery.log:
                recovery.log.shared_step(step)
            bar.step(f"loss {step.loss:.4f}", name=f"share epoch {step.epoch} of {epochs}")

        torch.manual_seed(job.seed)  # dropout, if the network has any
        try:
            return train(network, job.data.train, recipe, loss, show, checkpoint=state)
        except DivergedError:
            return start.eval()


def slimmable(recovery: Recovery, compressor: Compressor, plan: Plan, band: Band) -> Slimmable:
    """The loss over slices of what a plan leaves: of each what the final training minimises."""
    return Slimmable(
        per_slice(recovery),
        plan,
        compressor.plan(band.narrowest),
        lambda rng: [compressor.plan(strategy) for strategy in band.draw(rng)],
        Slices(compressor.model, plan),
        recovery.job.seed,
    )


def per_slice(recovery: Recovery) -> Callable[[Plan], Loss]:
    """What is minimised of every slice; the teacher is asked once for all of a step."""
    if recovery.distill.feature_weight:
        return recovery.loss  # whose features depend on the slice
    loss = recovery.loss(Plan({}, ()))
    if isinstance(loss, Distillation):
        loss = replace(loss, teacher=Remembering(loss.teacher, recovery.job.task))
    return lambda plan: loss


def about_of(recovery: Recovery, recipe: Recipe, plan: Plan, band: Band) -> dict[str, Any]:
    """What the trained weights depend on."""
    kept = json.dumps({name: group.keep for name, group in plan.groups.items()})
    sections = (recipe, recovery.distill, recovery.data, recovery.job.reconstruction)
    return {
        **{name: value for section in sections for name, value in asdict(section).items()},
        "label_smoothing": recovery.training.label_smoothing,
        "batch_size": recovery.training.batch_size,
        "seed": recovery.job.seed,
        "original": weights.digest(recovery.original),
        "widest": hashlib.sha256(kept.encode()).hexdigest(),
        "narrowest": dict(band.narrowest),
        "centres": band.centres,
    }
