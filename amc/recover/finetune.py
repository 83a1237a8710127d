"""Training by SGD with a cosine schedule: fine-tuning, and networks from scratch."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from amc.data import Loader, start_epoch
from amc.errors import AmcError
from amc.recover.distill import Loss, cross_entropy


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training stream; 0 trains nothing.
        learning_rate: at its highest; then a half cosine down to zero.
        warmup: part of all steps over which the rate rises linearly.
        momentum, weight_decay: of SGD with Nesterov's momentum; norms and biases do not decay.
    """

    epochs: int
    learning_rate: float
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def set_rate(self, sgd: torch.optim.Optimizer, progress: float) -> float:
        """Sets the learning rate for this part of the training, in [0, 1); returns it."""
        rate = self.learning_rate * _cosine(progress, self.warmup)
        for group in sgd.param_groups:
            group["lr"] = rate
        return rate


@dataclass(frozen=True)
class Step:
    """Progress of training: counters from 1, the loss of the batch, the learning rate."""

    epoch: int
    step: int
    total: int
    loss: float
    learning_rate: float


def train(
    model: nn.Module,
    stream: Loader,
    recipe: Recipe,
    loss: Loss = cross_entropy,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
    first_epoch: int = 0,
) -> nn.Module:
    """Trains in place and returns the model in eval mode.

    Args:
        model: to be trained; the caller owns it.
        stream: training batches, shuffled anew for every epoch.
        recipe: see `Recipe`.
        loss: what is minimised.
        on_step: called after each step.
        on_epoch: called after each epoch with its number, from 1.
        first_epoch: number of the first epoch for the order of the stream, so that consecutive
            calls see different orders.

    Raises:
        AmcError: the loss is not finite.
    """
    total = max(1, recipe.epochs * len(stream))
    sgd = optimiser(model, recipe)
    device, step = next(model.parameters()).device, 0
    for epoch in range(recipe.epochs):
        start_epoch(stream, first_epoch + epoch)
        model.train()
        for images, labels in stream:
            rate = recipe.set_rate(sgd, step / total)
            value = loss(model, images.to(device), labels.to(device))
            sgd.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            sgd.step()
            step += 1
            reached = float(value.detach())
            if not math.isfinite(reached):
                raise AmcError(
                    f"training: the loss is {reached} in step {step} of {total}; a smaller "
                    f"learning rate than {recipe.learning_rate:g} may help"
                )
            on_step(Step(epoch + 1, step, total, reached, rate))
        on_epoch(epoch + 1)
    return model.eval()


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD as the recipe says."""
    return torch.optim.SGD(
        _parameter_groups(model, recipe.weight_decay),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
    )


def _cosine(progress: float, warmup: float) -> float:
    """Part of the highest learning rate at this part of the training, both in [0, 1]."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    wanted = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in wanted if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in wanted if p.ndim <= 1], "weight_decay": 0.0},
    ]
