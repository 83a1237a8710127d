"""A few steps of fine-tuning within an episode: how well does a cut network learn?

Every strategy sees the same images in the same order with the same augmentation, so that
differences come from the widths. What the original network says about them is computed once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.data import Loader, start_epoch
from amc.evaluate import Score, evaluate, evaluating, logits
from amc.recover.finetune import Recipe, optimiser

Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Quick:
    """Fine-tuning by a fixed number of steps.

    Attributes:
        batches: images [B, ...], labels [B]; one step each.
        wished: log-probabilities of the original network at the temperature [B, classes], one per
            batch; empty without distillation.
        learning_rate: at its highest.
        temperature, weight: of distillation, see `distill.distillation`.
    """

    batches: Sequence[Labelled]
    wished: Sequence[Tensor]
    learning_rate: float = 0.05
    temperature: float = 4.0
    weight: float = 4.0

    @classmethod
    def of(cls, stream: Loader, steps: int, teacher: nn.Module | None, **more: float) -> "Quick":
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
        quick = cls(batches, (), **more)
        if teacher is None:
            return quick
        return cls(batches, quick.said(teacher), **more)

    def said(self, teacher: nn.Module) -> list[Tensor]:
        """Log-probabilities of a network on the batches."""
        device = next(teacher.parameters()).device
        with torch.no_grad(), evaluating(teacher):
            return [
                F.log_softmax(logits(teacher, x.to(device)) / self.temperature, dim=1)
                for x, _ in self.batches
            ]

    def tuned(
        self,
        model: nn.Module,
        validation: Iterable[Labelled],
        wished: Sequence[Tensor] | None = None,
    ) -> Score:
        """Trains the model, in place, and validates it as `evaluate` does, by batch statistics."""
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # dropout, if the network has any
            self._train(model.train(), device)
        return evaluate(model.eval(), validation, batch_statistics=True, wished=wished)

    def _train(self, model: nn.Module, device: torch.device) -> None:
        recipe = Recipe(1, self.learning_rate)
        sgd = optimiser(model, recipe)
        for step, (images, labels) in enumerate(self.batches):
            recipe.set_rate(sgd, step / len(self.batches))
            scores = logits(model, images.to(device))
            loss = F.cross_entropy(scores, labels.to(device))
            if self.wished:
                found = F.log_softmax(scores / self.temperature, dim=1)
                loss = loss + self.weight * F.kl_div(
                    found, self.wished[step], reduction="batchmean", log_target=True
                )
            sgd.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            sgd.step()
