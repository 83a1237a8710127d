"""Accuracy comes back: fine-tuning of the cut network."""

import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amc import ranks, weights
from amc.blame import blamed
from amc.errors import AmcError
from amc.evaluate import Score, evaluate
from amc.graph import ChannelGraph
from amc.imports import load_function
from amc.journal import Journal
from amc.pipeline import Pipeline
from amc.plan import Plan
from amc.recover.checkpoint import Checkpoint
from amc.recover.distill import Distillation, Loss, supervised
from amc.recover.finetune import Recipe, Step, train
from amc.recover.remembered import memorable, remembered

RUINED = 0.05
"""A training that lowers the accuracy on validation images by more is not taken."""


@dataclass(frozen=True)
class Recovery:
    """Trains what was cut from a network.

    Attributes:
        pipe: settings, data, progress.
        graph: of the original network.
        original: the network before any cut; the teacher.
        journal: is told of every step.
        folder: where trainings leave their state, so that they can go on after a stop.
    """

    pipe: Pipeline
    graph: ChannelGraph
    original: nn.Module
    journal: Journal
    folder: Path

    @property
    def staged(self) -> bool:
        """Whether the network is cut in several stages, with training between them."""
        config = self.pipe.config
        in_parts = config.group_size > 0 or config.schedule != "one-shot"
        return in_parts and config.finetune_epochs > 0

    def tune(
        self,
        model: nn.Module,
        plan: Plan,
        epochs: int,
        rate: float,
        stage: int = 0,
        first_epoch: int = 0,
    ) -> nn.Module:
        """A fine-tuned copy of a network.

        Args:
            model: that was cut.
            plan: what is left of the original in it.
            epochs: passes over the training data.
            rate: highest learning rate.
            stage: its number; every stage has a state of its own.
            first_epoch: epochs of the stages before.
        """
        config, task, tuned = self.pipe.config, self.pipe.task, copy.deepcopy(model)
        if not epochs:
            return tuned
        torch.manual_seed(config.seed + first_epoch)  # dropout, if the network has any
        if config.finetune:
            return self._by_user(tuned, epochs)
        recipe = Recipe(
            epochs,
            rate,
            weight_decay=config.weight_decay,
            clip=config.clip,
            ema=config.ema,
            mixed=config.mixed,
        )
        about = {**self._about(recipe, first_epoch), "start": weights.digest(model)}
        checkpoint = Checkpoint(self.folder / f"training-{stage}.safetensors", about)
        validated: list[Score] = []
        steps = epochs * len(self.pipe.data.train)
        with self.pipe.terminal.bar(f"fine-tune epoch 1 of {epochs}", steps) as bar:

            def show(step: Step) -> None:
                self.journal.finetune_step(step)
                score = f"  val {task.shown(validated[-1].accuracy)}" if validated else ""
                name = f"fine-tune epoch {step.epoch} of {epochs}"
                bar.step(f"loss {step.loss:.4f}{score}", name=name)

            def validate(epoch: int, network: nn.Module) -> None:
                validated.append(evaluate(network, self.pipe.validation, task=task))
                self.journal.finetune_epoch(validated[-1].accuracy)

            tuned = train(
                tuned,
                self.pipe.data.train,
                recipe,
                self._loss(plan),
                show,
                validate,
                first_epoch,
                checkpoint,
            )
        if not validated:  # it went on after its last epoch
            validated.append(evaluate(tuned, self.pipe.validation, task=task))
        return self._kept(model, tuned, validated[-1].accuracy)

    def _kept(self, before: nn.Module, tuned: nn.Module, has: float) -> nn.Module:
        """The tuned network; the one before, where training has ruined it instead.

        Args:
            before: what was tuned.
            tuned: the result.
            has: its score on validation images.
        """
        task = self.pipe.task
        if not task.classifies:  # a score may have any scale
            return tuned
        had = evaluate(before, self.pipe.validation, task=task).accuracy
        if has >= had - RUINED:
            return tuned
        self.pipe.terminal.say(
            f"worse    training has lowered {task.name} on validation images from "
            f"{task.shown(had)} to {task.shown(has)}: what was cut is kept as it was; try a "
            f"--learning-rate below {self.pipe.config.learning_rate:g}"
        )
        return copy.deepcopy(before).eval()

    def tidy(self) -> None:
        """Removes the states of trainings that are over."""
        for path in self.folder.glob("training-*.safetensors"):
            path.unlink()

    def _loss(self, plan: Plan) -> Loss:
        config = self.pipe.config
        if not config.distill:
            return supervised(self.pipe.task, config.label_smoothing)
        return Distillation(
            self._teacher,
            config.temperature,
            config.distill_weight,
            config.label_smoothing,
            self._features(plan) if config.feature_weight else {},
            config.feature_weight,
            self.pipe.task,
            config.distill_schedule,
        )

    @cached_property
    def _teacher(self) -> nn.Module:
        """The original, which all stages of a run learn from."""
        teacher, stream = copy.deepcopy(self.original), self.pipe.data.train
        if self.pipe.config.feature_weight or not memorable(teacher, stream):
            return teacher  # run in every step: features change, or images do
        with self.pipe.terminal.bar("teacher", len(stream)) as bar:
            return remembered(teacher, stream, bar.step)

    def _features(self, plan: Plan) -> dict[str, Tensor]:
        """Layers that are modules -> the outputs that the plan leaves them, see `Distillation`."""
        modules = dict(self.original.named_modules())
        cuts = {(c.tensor, c.dim): c for c in plan.cuts}
        found = {}
        for layer in self.graph.layers:
            if layer.name not in modules or layer.calls != 1:
                continue
            cut = cuts.get((layer.weight, layer.out_dim))
            kept = range(layer.out_channels) if cut is None else cut.keep
            if cut is None or cut.size == layer.out_channels:
                found[layer.name] = torch.tensor(list(kept))
        return found

    def _about(self, recipe: Recipe, first_epoch: int) -> dict[str, Any]:
        """What a training depends on besides the network that it begins with."""
        config = self.pipe.config
        names = ("distill", "temperature", "distill_weight", "distill_schedule", "label_smoothing",
                 "feature_weight", "batch_size", "seed", "data")  # fmt: skip
        settings = {name: getattr(config, name) for name in names}
        if not config.classifies:
            settings["task"] = config.task
        teacher = weights.digest(self.original) if config.distill else None
        return {**asdict(recipe), **settings, "first_epoch": first_epoch, "teacher": teacher}

    def _by_user(self, model: nn.Module, epochs: int) -> nn.Module:
        """Trained by the function that --finetune names."""
        name = self.pipe.config.finetune
        assert name is not None
        forms = {key: tensor.shape for key, tensor in model.state_dict().items()}
        with blamed(f"--finetune {name}:"):
            tuned = load_function(name)(model, self.original, self.pipe.data, epochs)
        if not isinstance(tuned, nn.Module):
            raise AmcError(
                f"--finetune {name}: must return the network, got {type(tuned).__name__}"
            )
        if {key: tensor.shape for key, tensor in tuned.state_dict().items()} != forms:
            raise AmcError(f"--finetune {name}: the network that it returns has other tensors")
        for key, tensor in tuned.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise AmcError(f"--finetune {name}: {key} holds NaN or infinity")
        ranks.as_first(tuned)
        return tuned.eval()
