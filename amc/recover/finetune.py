"""Training by SGD with a cosine schedule: fine-tuning, and networks from scratch.

A training that was stopped goes on from the end of its last epoch to the same weights, bit for
bit; one whose loss is no number any more goes back there, with half the learning rate. Several
processes share every batch, see `slices`; after each epoch they have the same network again.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from amc import feed, ranks
from amc.data import Loader, slices, start_epoch
from amc.errors import AmcError
from amc.feed import Feed
from amc.recover.checkpoint import Checkpoint
from amc.recover.distill import Distillation, Loss, cross_entropy
from amc.recover.slices import gradient

RETRIES = 3
"""How often in a row a training goes back to the end of its last epoch."""

TOGETHER = 10
"""Steps whose losses a GPU hands over at once: it stands still while they are looked at."""

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
    on_epoch: Callable[[int, nn.Module], None] = lambda epoch, network: None,
    first_epoch: int = 0,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """Trains in place and returns the model in eval mode.

    Args:
        model: to be trained; the caller owns it.
        stream: training batches, shuffled anew for every epoch.
        recipe: see `Recipe`.
        loss: what is minimised.
        on_step: called after each step.
        on_epoch: called after each epoch with its number, from 1, and the network as it would be
            returned.
        first_epoch: number of the first epoch for the order of the stream, so that consecutive
            calls see different orders.
        checkpoint: file that the training goes on from, and leaves behind.

    Raises:
        AmcError: the loss is not finite, `RETRIES` times in a row; the checkpoint is damaged.
    """
    training = _Training(model, recipe, loss, max(1, recipe.epochs * len(stream)))
    if checkpoint and (saved := checkpoint.load()):
        training.go_back(saved)
    retries = 0
    while training.epoch < recipe.epochs:
        before = training.state()
        start_epoch(stream, first_epoch + training.epoch)
        with ranks.apart(training.epoch):
            reached = training.run_epoch(stream, on_step)
        if not math.isfinite(reached):
            retries += 1
            if retries > RETRIES:
                raise AmcError(
                    f"training: the loss is {reached} in epoch {training.epoch + 1} of "
                    f"{recipe.epochs}; a smaller learning rate than {recipe.learning_rate:g} may "
                    "help"
                )
            training.go_back(before)
            training.factor /= 2
            continue
        retries = 0
        if checkpoint:
            checkpoint.save(training.state())
        on_epoch(training.epoch, training.network)
    return training.finished()


class _Training:
    """A training between two epochs, or within one."""

    def __init__(self, model: nn.Module, recipe: Recipe, loss: Loss, total: int) -> None:
        self.epoch, self.factor = 0, 1.0
        self._model, self._recipe, self._loss, self._total = model, recipe, loss, total
        self._device, self._sgd = next(model.parameters()).device, optimiser(model, recipe)
        self._averaged: AveragedModel | None = None
        if recipe.ema:
            average = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            self._averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)

    @property
    def network(self) -> nn.Module:
        """The network as it would be returned now."""
        return self._averaged.module if self._averaged else self._model

    def run_epoch(self, stream: Loader, on_step: Callable[[Step], None]) -> float:
        """One pass; one of its losses, which is not finite if the pass broke off."""
        step, reached = self.epoch * (self._total // max(1, self._recipe.epochs)), 0.0
        together = 1 if self._device.type == "cpu" else TOGETHER
        taken: list[tuple[int, float, Tensor]] = []
        self._model.train()
        for images, labels, whole in slices(stream):
            progress = step / self._total
            rate = self._recipe.set_rate(self._sgd, progress, self.factor)
            images, labels = feed.moved(images, self._device), labels.to(self._device)
            step += 1
            taken.append((step, rate, self._step(images, labels, whole, progress)))
            if len(taken) == together and not math.isfinite(reached := self._tell(taken, on_step)):
                return reached
        if taken and not math.isfinite(reached := self._tell(taken, on_step)):
            return reached
        for network in (self._model, self._averaged):
            if network is not None:
                ranks.as_first(network, mean_buffers=True)
        state = self._model.state_dict().values()
        fine = [t.isfinite().all().to(self._device) for t in state]
        if not bool(torch.stack(fine).all()):
            return math.nan  # the last step has spoilt the weights
        self.epoch += 1
        return reached

    def _tell(
        self, taken: list[tuple[int, float, Tensor]], on_step: Callable[[Step], None]
    ) -> float:
        """Reports steps and forgets them; the last loss, or the first that is not finite."""
        reached, losses = 0.0, torch.stack([loss for _, _, loss in taken]).tolist()
        for (step, rate, _), reached in zip(taken, losses, strict=True):
            if not math.isfinite(reached):
                break
            on_step(Step(self.epoch + 1, step, self._total, reached, rate))
        taken.clear()
        return reached

    def _step(self, images: Feed, labels: Tensor, whole: int, progress: float) -> Tensor:
        kind, now = self._device.type, self._loss
        mixed = self._recipe.mixed and kind == "cuda"
        if isinstance(now, Distillation):
            now = now.at(progress)

        def loss(images: Feed, labels: Tensor) -> Tensor:
            with torch.autocast(kind, torch.bfloat16) if mixed else nullcontext():
                return now(self._model, images, labels)

        self._sgd.zero_grad(set_to_none=True)
        reached = gradient(self._parameters(), loss, images, labels, whole)
        if self._recipe.clip:
            held(self._parameters(), self._recipe.clip)
        self._sgd.step()
        if self._averaged:
            self._averaged.update_parameters(self._model)
        return reached

    def state(self) -> dict[str, Tensor]:
        """Everything that the rest of the training depends on, copied."""
        state = {
            "epoch": torch.tensor(self.epoch),
            "factor": torch.tensor(self.factor, dtype=torch.float64),
            "random": torch.get_rng_state(),
            **{f"model.{name}": t for name, t in self._model.state_dict().items()},
        }
        for number, buffer in enumerate(self._buffers()):
            if buffer is not None:
                state[f"momentum.{number}"] = buffer
        if self._averaged:
            state |= {f"average.{name}": t for name, t in self._averaged.state_dict().items()}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def go_back(self, state: dict[str, Tensor]) -> None:
        """To what `state` gave."""
        self.epoch, self.factor = int(state["epoch"]), float(state["factor"])
        torch.set_rng_state(state["random"].cpu())
        self._model.load_state_dict(_under("model.", state))
        if self._averaged:
            self._averaged.load_state_dict(_under("average.", state))
        self._sgd.state.clear()
        for number, parameter in enumerate(self._parameters()):
            buffer = state.get(f"momentum.{number}")
            if buffer is not None:
                self._sgd.state[parameter]["momentum_buffer"] = buffer.clone().to(self._device)

    def finished(self) -> nn.Module:
        """The trained model."""
        if self._averaged:
            self._model.load_state_dict(self._averaged.module.state_dict())
        return self._model.eval()

    def _parameters(self) -> list[Any]:
        return [p for group in self._sgd.param_groups for p in group["params"]]

    def _buffers(self) -> list[Tensor | None]:
        return [self._sgd.state[p].get("momentum_buffer") for p in self._parameters()]


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD as the recipe says."""
    return torch.optim.SGD(
        _parameter_groups(model, recipe.weight_decay),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def held(parameters: Iterable[Tensor], part: float) -> None:
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
