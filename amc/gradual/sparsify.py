"""Weights or blocks become zero: at once, or little by little while the network is trained."""

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from amc.config.sections.sparsity import ONE_SHOT
from amc.config.train import TrainConfig
from amc.data import images_in
from amc.gradual.share_levels import share_levels
from amc.gradual.zeros import adapted, at_once, levels_for, zeros_in
from amc.graph.plan import Plan
from amc.graph.shrink import duplicate, tensors
from amc.graph.tracing.trace import trace
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.history import keep_training
from amc.runtime import distributed, weights
from amc.sparsity.account import as_json, layer_levels
from amc.sparsity.bernoulli import attach_bernoulli
from amc.sparsity.constant import save_masks
from amc.sparsity.levels import Levels
from amc.sparsity.magnitude import MAGNITUDES
from amc.sparsity.masking import Drawn, Growing, Zeros
from amc.sparsity.masks import attach, masks_of, strip
from amc.steps.finetune import Recovery
from amc.steps.job import Job
from amc.steps.setup import Network
from amc.training.best_network import BestNetwork
from amc.training.trainer import normalised

MASKS = "masks.safetensors"

UNLEARNED = 0.02
"""An RB whose logits end this far below the level is told to be trained longer."""


@dataclass(frozen=True)
class Sparse:
    """What came of it.

    Attributes:
        network: with its zeros, without masks, in eval mode.
        before: the same at once and without training, where that is not the result.
        masks: name of a weight -> bool, True stays.
        account: for the report, as JSON values; see `Sparsifying.account`.
        macs: forward MACs of all images that it was trained on.
    """

    network: nn.Module
    before: nn.Module
    masks: Mapping[str, Tensor]
    account: Mapping[str, Any]
    macs: int


def sparsify(
    job: Job,
    network: Network,
    model: nn.Module,
    plan: Plan,
    config: TrainConfig,
    folder: Path,
    log: TensorBoardLog,
) -> Sparse:
    """The network with zeros, trained; its masks are written into the folder.

    Args:
        job: the run.
        network: before anything was cut; the teacher.
        model: what a cut has left of it; not changed.
        plan: that cut.
        config: what becomes zero, how much, when, and how it is trained.
        folder: of the run.
        log: is told of every step.

    Raises:
        AmcError: so much cannot become zero, or nothing can.
    """
    graph = network.graph
    if plan.cuts:
        example = job.example
        graph = trace(model, example.args, example.kwargs, example.outputs)
    zeros, whole = zeros_in(graph, model, config)
    recovery = Recovery(
        job, network.graph, network.model, config.training, config.distill, config.data, log,
        folder,
    )  # fmt: skip
    if config.sparsity.sparsity_allocation == "search":
        zeros = replace(zeros, shares=share_levels(job, model, graph, zeros, config, folder))
    step = Sparsifying(job, recovery, model, plan, config, zeros)
    job.terminal.say(*step.overview(whole))
    once = at_once(job, model, graph, zeros, step.metric)
    trained, epochs = step.trained(once)
    masks = {name: mask.current().clone() for name, mask in masks_of(trained).items()}
    distributed.check_equal("the masks", sha256(b"".join(map(_bytes, masks.values()))).hexdigest())
    save_masks(folder / MASKS, masks)
    before, after = (strip(duplicate(one)).eval() for one in (once, trained))
    macs = network.graph.macs(plan) * epochs * images_in(job.data.train) if epochs else 0
    account = {"whole": whole, **step.account(masks, after)}
    return Sparse(after, before, masks, account, macs)


def _bytes(mask: Tensor) -> bytes:
    return bytes(mask.cpu().numpy().tobytes())


@dataclass(frozen=True)
class Sparsifying:
    """One network on its way to its zeros.

    Attributes:
        job: the run.
        recovery: how it is trained.
        model: the network without zeros.
        plan: what a cut has left of the original in it.
        config: of the run.
        zeros: what may become zero.
        grown: what changed masks in the training that gave the result; at most one.
    """

    job: Job
    recovery: Recovery
    model: nn.Module
    plan: Plan
    config: TrainConfig
    zeros: Zeros
    grown: list[Growing] = field(default_factory=list)

    @cached_property
    def metric(self) -> str:
        """Which weights go."""
        return self.config.reconstruction.of_weights

    @cached_property
    def schedule(self) -> str:
        """When they go: at once where nothing is trained."""
        training, settings = self.config.training, self.config.sparsity
        if not training.finetune_epochs:
            return ONE_SHOT
        return settings.schedule_for(self.metric, bool(training.finetune))

    @cached_property
    def levels(self) -> Levels:
        """The schedule, over the epochs of the training."""
        epochs = self.config.training.finetune_epochs
        return levels_for(self.config.sparsity, self.schedule, epochs)

    def overview(self, whole: Mapping[str, str]) -> list[str]:
        """What is about to be done, in a line or two."""
        known = tensors(self.model)
        count = sum(known[name].numel() for name in self.zeros.layouts)
        block = f" in blocks {self.zeros.pattern}" if str(self.zeros.pattern) else ""
        goal = "the zeros that there are" if self.metric == "const" else f"{self.zeros.target:.1%}"
        left = sorted(set(whole.values()))
        lines = [
            f"zeros    {count:,} weights of {len(self.zeros.layouts)} layers{block}: {goal} by "
            f"{self.metric}, {self.schedule}"
            + (f"; left whole: {'; '.join(left)}" if left else "")
        ]
        if self.metric == "rb" and not normalised(self.model):
            lines.append(
                "warning  --metric rb draws other masks in every step, which training bears with "
                "batch norm; this network has none: --metric magnitude may do better"
            )
        return lines

    def trained(self, once: nn.Module) -> tuple[nn.Module, int]:
        """The trained network, with its masks on it, and the epochs that it took.

        A training whose best network is below the one that had its zeros at once is done again at
        a tenth of the rate; where that does not help either, that one is the result.

        Args:
            once: the network with all its zeros and no training.
        """
        training = self.config.training
        epochs, rate = training.finetune_epochs, training.rate_for(self.recovery.graph)
        if not epochs:
            return once, 0
        if training.finetune:
            return self.recovery.users(once, epochs, 0), epochs
        least, say = self.recovery.score(once), self.job.terminal.say
        start = once if self.schedule == ONE_SHOT else self._begun()
        shown = f"{self.job.task.name} {self.job.task.shown(least)}"
        for again, now in enumerate((rate, rate / 10)):
            tuned, judged = self._tried(start, epochs, now, bool(again))
            first = judged.counts.index(True) if True in judged.counts else len(judged.counts)
            about = {"counts_from": first, "least": least}
            keep_training(self.recovery.folder, 0, bool(again), now, 0, judged.scores, **about)
            if judged.best > 0 and judged.scores[judged.best] >= least:
                return tuned, (1 + again) * epochs
            if not again:
                say(
                    f"again    training at a rate of {now:g} does not come above {shown} on "
                    "validation images, which the same zeros at once have without any; once more "
                    f"at {now / 10:g}"
                )
        say(f"kept     training does not come above {shown}: zeros at once, without training")
        self.grown.clear()
        return once, 2 * epochs

    def _tried(
        self, start: nn.Module, epochs: int, rate: float, again: bool
    ) -> tuple[nn.Module, BestNetwork]:
        """One training; the masks of its result are those that it ended with."""
        recovery, log = self.recovery, self.recovery.log
        self.grown.clear()

        def beside(model: nn.Module) -> Growing:
            self.grown.append(self._growing(model))
            return self.grown[0]

        def level() -> None:
            if log and self.grown:
                log.finetune_level(self.grown[0].achieved)

        path = recovery.folder / f"training-0{'-again' if again else ''}.safetensors"
        tuned, judged = recovery.trained(
            start,
            self.plan,
            recovery.recipe(epochs, rate),
            path,
            on_epoch=level,
            beside=None if self.schedule == ONE_SHOT else beside,
            more={**asdict(self.config.sparsity), "metric": self.metric},
        )
        self._say_unlearned()
        return tuned.network, judged

    def _begun(self) -> nn.Module:
        """The network that a schedule begins with: masks of the first level."""
        masked, names = duplicate(self.model).eval(), list(self.zeros.layouts)
        if self.metric == "rb":
            attach_bernoulli(masked, names, self.zeros.pattern, self.zeros.layouts)
            return masked
        attach(masked, names)
        if not (first := self.levels.at(0)):
            return masked
        self._growing(masked).put(first)
        return adapted(self.job, masked)

    def _growing(self, model: nn.Module) -> Growing:
        """What changes the masks of a network while it is trained."""
        steps, settings = len(self.job.data.train), self.config.sparsity
        if self.metric == "rb":
            rate, seed = settings.sparsity_rate, self.job.seed
            return Drawn(model, self.zeros, self.levels, steps, rate, seed)
        return Growing(model, self.zeros, self.levels, MAGNITUDES[self.metric], steps)

    def _say_unlearned(self) -> None:
        """RB whose training was too short to learn so many zeros."""
        for grown in self.grown:
            rate = grown.rate if isinstance(grown, Drawn) else 0.0
            if self.learned is not None and self.learned < self.zeros.target - UNLEARNED:
                self.job.terminal.say(
                    f"warning  rb: training has put out {self.learned:.1%} of the units by "
                    "itself, the lowest of the others follow at once; a longer training, or a "
                    f"--sparsity-rate above {rate:.2g}, learns them all"
                )

    @property
    def learned(self) -> float | None:
        """The level that RB's logits came to by themselves."""
        return next((one.learned for one in self.grown if isinstance(one, Drawn)), None)

    def account(self, masks: Mapping[str, Tensor], after: nn.Module) -> dict[str, Any]:
        """What came of it, as JSON values.

        Args:
            masks: of the result.
            after: the result.
        """
        found, settings = as_json(layer_levels(masks)), self.config.sparsity
        with self.job.terminal.bar("compressed size"):
            zipped = [len(zlib.compress(weights.to_bytes(one))) for one in (self.model, after)]
        return {
            "target": found["reached"] if self.metric == "const" else settings.sparsity,
            "units": settings.block or "weights",
            "metric": self.metric,
            "schedule": self.schedule,
            "allocation": settings.sparsity_allocation,
            "parameters": sum(p.numel() for p in after.parameters()),
            "zip_bytes": dict(zip(("original", "pruned"), zipped, strict=True)),
            "learned": self.learned,
            "epochs": [*self.grown[0].history, found["reached"]] if self.grown else [],
            **found,
        }
