"""How to train: rates, decay, clipping."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHORT, SHORTEST = 0.1, 1e-3
"""When gradients are clipped, rows of weights count as at least so long: of the layer's mean, and
at all. A silenced filter can grow again, and a layer that begins with zeros can begin."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training stream; 0 trains nothing.
        learning_rate: at its highest; then a half cosine down to zero.
        warmup: part of all steps over which the rate rises linearly.
        momentum, weight_decay: of SGD with Nesterov's momentum; norms and biases do not decay.
        clip: adaptive gradient clipping, see `held`; 0 for none.
        ema: the result is an average of the weights of all steps, the older ones discounted by
            this per step; 0 for the last weights.
        mixed: matrix products in bfloat16; on a GPU only.
    """

    epochs: int
    learning_rate: float
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 0.0
    ema: float = 0.0
    mixed: bool = False

    def set_rate(self, sgd: torch.optim.Optimizer, progress: float, factor: float = 1.0) -> float:
        """Sets the learning rate for this part of the training, in [0, 1); returns it."""
        rate = factor * self.learning_rate * _cosine(progress, self.warmup)
        for group in sgd.param_groups:
            group["lr"] = rate
        return rate


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD as the recipe says."""
    return torch.optim.SGD(
        _parameter_groups(model, recipe.weight_decay),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def clip_by_filter_norm(parameters: Iterable[Tensor], part: float) -> None:
    """Scales gradients down in place, so that no filter moves fast for its length.

    Brock et al. 2021 (equation 3): the gradient of each row of a weight [N, ...] is at most this
    part of the row's own norm. Norms and biases are left alone. One bound for all networks, whose
    losses and filters differ in size by orders of magnitude.
    """
    for weight in parameters:
        if weight.grad is not None and weight.ndim > 1:
            lengths = _lengths(weight.detach())
            least = (SHORT * lengths.mean()).clamp(min=SHORTEST)
            factor = (part * lengths.maximum(least) / _lengths(weight.grad)).clamp(max=1)
            weight.grad.mul_(factor.reshape(-1, *[1] * (weight.ndim - 1)))


def _lengths(rows: Tensor) -> Tensor:
    """[N, ...] -> [N]."""
    lengths: Tensor = rows.flatten(1).norm(dim=1)
    return lengths


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
