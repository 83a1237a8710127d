"""How to train: rates, decay, clipping, averages, and what goes on beside it."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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


class Beside(Protocol):
    """What goes on beside a training and changes the network: masks that grow.

    Attributes:
        parameters: of the network, that it trains itself.
        settled: whether it changes nothing any more; only then may a network be the best.
    """

    parameters: list[nn.Parameter]
    settled: bool

    @property
    def told(self) -> str:
        """For lines of progress."""

    def before_step(self, step: int) -> None:
        """Called before each step of the optimiser, with its number, from 0."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss of the step."""

    def after_step(self) -> None:
        """Called once the step's gradients are there and the optimiser has used them."""

    def end(self) -> None:
        """Called after the last step of all, before the network is looked at."""

    def state(self) -> dict[str, Tensor]:
        """What it depends on beside the network."""

    def go_back(self, state: dict[str, Tensor]) -> None:
        """To what `state` gave."""


class Average(AveragedModel):
    """A network whose weights are an average over the steps, the older ones discounted.

    Truth values, such as masks, have no average: it has those of now.
    """

    def __init__(self, model: nn.Module, discount: float) -> None:
        average = get_ema_multi_avg_fn(discount)  # type: ignore[no-untyped-call]
        super().__init__(model, multi_avg_fn=average, use_buffers=True)

    def update_parameters(self, model: nn.Module) -> None:
        """Called after each step."""
        super().update_parameters(model)
        self.copy_flags(model)

    def copy_flags(self, model: nn.Module) -> None:
        """Truth values as they are now."""
        for own, now in zip(self.module.buffers(), model.buffers(), strict=True):
            if own.dtype is torch.bool:
                own.copy_(now)


def optimiser(
    model: nn.Module, recipe: Recipe, others: Collection[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """SGD as the recipe says, of all parameters but those that are trained by others."""
    return torch.optim.SGD(
        _parameter_groups(model, recipe.weight_decay, {id(p) for p in others}),
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


def _parameter_groups(
    model: nn.Module, weight_decay: float, others: Collection[int]
) -> list[dict[str, object]]:
    wanted = [p for p in model.parameters() if p.requires_grad and id(p) not in others]
    return [
        {"params": [p for p in wanted if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in wanted if p.ndim <= 1], "weight_decay": 0.0},
    ]
