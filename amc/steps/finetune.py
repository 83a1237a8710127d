"""Fine-tuning of what was cut, and what becomes of it where it does not help."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amc.config.sections.job import DataConfig
from amc.config.sections.recovery import DistillConfig, TrainingConfig
from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.history import keep_training
from amc.runtime import distributed, weights
from amc.runtime.errors import AmcError
from amc.runtime.user_code import load_function, user_code
from amc.steps.job import Job
from amc.tasks.evaluate import evaluate
from amc.training.best_network import BestNetwork
from amc.training.checkpoint import Checkpoint
from amc.training.distillation import Distillation, Loss, outputs_left, supervised
from amc.training.movement import Movement
from amc.training.recipe import Beside, Recipe
from amc.training.teacher_outputs import can_precompute, precomputed
from amc.training.trainable import trainable
from amc.training.trainer import DivergedError, Step, train


@dataclass(frozen=True)
class Tuned:
    """What came of a training.

    Attributes:
        network: that was trained.
        movement: tensor -> -w * g added up over all steps; None if it was not asked for, or the
            training was not ours.
        epochs: that it took, those of a second try as well.
    """

    network: nn.Module
    movement: Mapping[str, Tensor] | None = None
    epochs: int = 0


@dataclass(frozen=True)
class Recovery:
    """Trains what was cut from a network.

    Attributes:
        job: data, task, progress.
        graph: of the original network.
        original: the network before any cut; the teacher.
        training: how to train.
        distill: what is learned from the original.
        data: the name of the data, which states of trainings hold.
        log: is told of every step, if there is one.
        folder: where trainings leave their state, so that they can go on after a stop.
    """

    job: Job
    graph: ChannelGraph
    original: nn.Module
    training: TrainingConfig
    distill: DistillConfig
    data: DataConfig
    log: TensorBoardLog | None
    folder: Path

    def tune(
        self,
        model: nn.Module,
        plan: Plan,
        epochs: int,
        rate: float | None = None,
        stage: int = 0,
        first_epoch: int = 0,
        moving: bool = False,
    ) -> Tuned:
        """A fine-tuned copy of a network.

        Args:
            model: that was cut.
            plan: what is left of the original in it.
            epochs: passes over the training data.
            rate: highest learning rate; without, that of the settings.
            stage: its number; every stage has a state of its own.
            first_epoch: epochs of the stages before.
            moving: whether movement is added up.
        """
        if not epochs:
            return Tuned(copy.deepcopy(model))
        if self.training.finetune:
            return Tuned(self.users(model, epochs, first_epoch), epochs=epochs)
        rate = self.training.rate_for(self.graph) if rate is None else rate
        score, say = "the score", self.job.terminal.say
        for again, now in enumerate((rate, rate / 10)):
            path = self.folder / f"training-{stage}{'-again' if again else ''}.safetensors"
            tuned, judged = self.trained(
                model, plan, self.recipe(epochs, now), path, first_epoch, moving
            )
            tuned = replace(tuned, epochs=(1 + again) * epochs)
            keep_training(self.folder, stage, bool(again), now, first_epoch, judged.scores)
            if judged.best:
                return tuned
            score = self._shown(judged.scores[0])
            if not again:
                say(
                    f"again    training at a rate of {now:g} does not come above {score} on "
                    f"validation images, which the network had before; once more at {now / 10:g}"
                )
        say(f"kept     training does not come above {score}: the network stays as it was")
        return tuned

    def once(
        self,
        model: nn.Module,
        plan: Plan,
        epochs: int,
        name: str,
        first_epoch: int = 0,
        on_epoch: Callable[[], None] = lambda: None,
    ) -> nn.Module:
        """The best of a network and its epochs of training: no second try at another rate.

        Args:
            model: that was cut.
            plan: what is left of the original in it.
            epochs: passes over the training data, under a complete cosine.
            name: of its state.
            first_epoch: epochs before, so that the order of the batches is another one.
            on_epoch: called after every epoch.
        """
        if self.training.finetune:
            tuned = self.users(model, epochs, first_epoch)
            for _ in range(epochs):
                on_epoch()
            return tuned
        recipe = self.recipe(epochs, self.training.rate_for(self.graph))
        path = self.folder / f"training-{name}.safetensors"
        return self.trained(model, plan, recipe, path, first_epoch, on_epoch=on_epoch)[0].network

    def recipe(self, epochs: int, rate: float) -> Recipe:
        """How so many epochs are trained at this rate."""
        config = self.training
        own = {name: getattr(config, name) for name in ("weight_decay", "clip", "ema", "mixed")}
        return Recipe(epochs, rate, **own)

    def trained(
        self,
        model: nn.Module,
        plan: Plan,
        recipe: Recipe,
        path: Path,
        first_epoch: int = 0,
        moving: bool = False,
        on_epoch: Callable[[], None] = lambda: None,
        beside: Callable[[nn.Module], Beside] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> tuple[Tuned, BestNetwork]:
        """The best of a network and its epochs of training, and how good all of them are.

        Args:
            model: to begin with; not changed.
            plan: what is left of the original in it.
            recipe: how to train.
            path: of the state that the training leaves, and goes on from.
            first_epoch: epochs before.
            moving: whether movement is added up.
            on_epoch: called after every epoch.
            beside: what changes the network, which it is made for, while it is trained.
            more: what the training depends on besides.
        """
        bar_of, epochs = self.job.terminal.bar, recipe.epochs
        torch.manual_seed(self.job.seed + first_epoch)  # dropout, if the network has any
        judged, tuned = BestNetwork(self.score), copy.deepcopy(model)
        movement = Movement(tuned) if moving else None
        about = {**self._about(recipe, first_epoch), "start": weights.digest(model)}
        steps, changes = epochs * len(self.job.data.train), beside(tuned) if beside else None
        with bar_of(f"fine-tune epoch 1 of {epochs}", steps) as bar, trainable(tuned, plan):

            def show(step: Step) -> None:
                if self.log:
                    self.log.finetune_step(step)
                name = f"fine-tune epoch {step.epoch} of {epochs}"
                told = f"{changes.told}  " if changes else ""
                bar.step(
                    f"loss {step.loss:.4f}  {told}val {self._shown(judged.scores[-1])}", name=name
                )

            def validated(epoch: int, network: nn.Module) -> None:
                if self.log:
                    self.log.finetune_epoch(judged.scores[-1])
                on_epoch()

            try:
                tuned = train(
                    tuned,
                    self.job.data.train,
                    recipe,
                    self.loss(plan),
                    show,
                    validated,
                    first_epoch,
                    Checkpoint(path, {**about, **(more or {})}),
                    judged,
                    movement,
                    changes,
                )
            except DivergedError:
                start = copy.deepcopy(model).eval()
                first = judged.scores[:1], judged.counts[:1]
                return Tuned(start), BestNetwork(self.score, *first)
        return Tuned(tuned, movement.sums if movement else None), judged

    def score(self, network: nn.Module) -> float:
        """On all validation images, which are more than the reward may see."""
        return evaluate(network, self.job.data.val, task=self.job.task).accuracy

    def _shown(self, score: float) -> str:
        return f"{self.job.task.name} {self.job.task.shown(score)}"

    def _better(self, before: nn.Module, tuned: nn.Module) -> nn.Module:
        """The tuned network; the one before, if that has the higher score."""
        had, has = self.score(before), self.score(tuned)
        if has >= had:
            return tuned
        name, (first, last) = self.job.task.name, map(self.job.task.shown, (had, has))
        self.job.terminal.say(
            f"kept     training has lowered {name} on validation images from {first} to {last}: "
            "the network stays as it was"
        )
        return copy.deepcopy(before).eval()

    def loss(self, plan: Plan) -> Loss:
        """What is minimised of the network that a plan of the original leaves."""
        config, smoothing = self.distill, self.training.label_smoothing
        if not config.distill:
            return supervised(self.job.task, smoothing)
        return Distillation(
            self.teacher,
            config.temperature,
            config.distill_weight,
            smoothing,
            outputs_left(self.graph, self.original, plan) if config.feature_weight else {},
            config.feature_weight,
            self.job.task,
            config.distill_schedule,
        )

    @cached_property
    def teacher(self) -> nn.Module:
        """The original, which all trainings of a run learn from."""
        teacher, stream = copy.deepcopy(self.original), self.job.data.train
        if self.distill.feature_weight or not can_precompute(teacher, stream):
            return teacher  # run in every step: features change, or images do
        known = self.job.teachers
        if self.original not in known:
            with self.job.terminal.bar("teacher", len(stream)) as bar:
                known[self.original] = precomputed(teacher, stream, bar.step, self.job.task)
        return known[self.original]

    def _about(self, recipe: Recipe, first_epoch: int) -> dict[str, Any]:
        """What a training depends on besides the network that it begins with."""
        settings = {**asdict(self.training), **asdict(self.distill), **asdict(self.data)}
        teacher = weights.digest(self.original) if self.distill.distill else None
        own = {"seed": self.job.seed, "first_epoch": first_epoch, "teacher": teacher}
        return {**settings, **asdict(recipe), **own}

    def users(self, model: nn.Module, epochs: int, first_epoch: int) -> nn.Module:
        """A copy, trained by the user's function unless that lowers the score."""
        torch.manual_seed(self.job.seed + first_epoch)
        return self._better(model, self._by_user(copy.deepcopy(model), epochs))

    def _by_user(self, model: nn.Module, epochs: int) -> nn.Module:
        """Trained by the function that --finetune names."""
        name = self.training.finetune
        assert name is not None
        forms = {key: tensor.shape for key, tensor in model.state_dict().items()}
        with user_code(f"--finetune {name}:"):
            tuned = load_function(name)(model, self.original, self.job.data, epochs)
        if not isinstance(tuned, nn.Module):
            raise AmcError(
                f"--finetune {name}: must return the network, got {type(tuned).__name__}"
            )
        if {key: tensor.shape for key, tensor in tuned.state_dict().items()} != forms:
            raise AmcError(f"--finetune {name}: the network that it returns has other tensors")
        for key, tensor in tuned.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise AmcError(f"--finetune {name}: {key} holds NaN or infinity")
        distributed.broadcast_model(tuned)
        return tuned.eval()
