"""A few steps of fine-tuning within an episode: how well does a cut network learn?

Every strategy sees the same images in the same order with the same augmentation, so that
differences come from the widths. What the original network says about them is computed once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from amc.data import Loader, start_epoch
from amc.runtime import feed
from amc.runtime.feed import Feed
from amc.tasks.evaluate import Score, evaluate, evaluating, predictions
from amc.tasks.precision import repeatable
from amc.tasks.task import CLASSIFICATION, Outputs, Task
from amc.training.recipe import Recipe, clip_by_filter_norm, optimiser
from amc.training.shared_gradient import backward

Labelled = tuple[Feed, Tensor]


@dataclass(frozen=True)
class ShortTraining:
    """Fine-tuning by a fixed number of steps.

    Attributes:
        batches: images [B, ...], targets [B, ...]; one step each.
        reference: what the original network puts out, softened at the temperature, one per batch;
            empty without distillation.
        learning_rate: at its highest.
        temperature, weight: of distillation, see `distill.Distillation`.
        clip: adaptive gradient clipping; 0 for none.
        task: what the network is for.
    """

    batches: Sequence[Labelled]
    reference: Sequence[Outputs]
    learning_rate: float = 0.05
    temperature: float = 4.0
    weight: float = 2.0
    clip: float = 0.2
    task: Task = CLASSIFICATION

    @classmethod
    def of(
        cls,
        stream: Loader,
        steps: int,
        teacher: nn.Module | None,
        task: Task = CLASSIFICATION,
        **more: float,
    ) -> "ShortTraining":
        """The first ``steps`` batches of the training stream, over as many epochs as it takes."""
        batches: list[Labelled] = []
        epoch = 0
        while len(batches) < steps:
            start_epoch(stream, epoch)
            for images, labels in stream:
                batches.append((images, labels))
                if len(batches) == steps:
                    break
            epoch += 1
        quick = cls(batches, (), task=task, **more)
        if teacher is None:
            return quick
        return replace(quick, reference=quick.said(teacher))

    def said(self, teacher: nn.Module) -> list[Outputs]:
        """What a network puts out on the batches, softened."""
        device = next(teacher.parameters()).device
        with torch.no_grad(), evaluating(teacher):
            return [
                self.task.soften(
                    predictions(teacher, feed.moved(x, device), self.task), self.temperature
                )
                for x, _ in self.batches
            ]

    @repeatable()
    def tuned(
        self,
        model: nn.Module,
        validation: Iterable[Labelled],
        reference: Sequence[Outputs] | None = None,
    ) -> Score:
        """Trains the model, in place, and validates it as `evaluate` does, by batch statistics."""
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # dropout, if the network has any
            self._train(model.train(), device)
        return evaluate(model.eval(), validation, True, reference, self.task)

    def _train(self, model: nn.Module, device: torch.device) -> None:
        recipe = Recipe(1, self.learning_rate)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            model.requires_grad_(True)  # frozen by its owner; this copy is thrown away
        sgd = optimiser(model, recipe)
        for step, (images, targets) in enumerate(self.batches):
            recipe.set_rate(sgd, step / len(self.batches))
            found = predictions(model, feed.moved(images, device), self.task)
            loss = self.task.batch_loss(found, targets.to(device))
            if self.reference:
                soft = self.task.soften(found, self.temperature)
                weight = self.weight * self.task.sharpness(self.temperature)
                apart = self.task.divergence(soft, self.reference[step])
                loss = loss + weight * apart / feed.samples(found)
            sgd.zero_grad(set_to_none=True)
            backward(loss)
            if self.clip:
                clip_by_filter_norm(model.parameters(), self.clip)
            sgd.step()
