"""Training by SGD with a cosine schedule: fine-tuning, and networks from scratch.

A training that was stopped goes on from the end of its last epoch to the same weights, bit for
bit; one whose loss is no number any more goes back there, with half the learning rate. Several
processes share every batch, see `slices`; after each epoch they have the same network again.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.data import Loader, slices, start_epoch
from amc.runtime import distributed, feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.tasks.precision import repeatable
from amc.training.best_network import BestNetwork
from amc.training.checkpoint import Checkpoint
from amc.training.distillation import Loss, at, cross_entropy
from amc.training.movement import Movement
from amc.training.recipe import Average, Beside, Recipe, clip_by_filter_norm, optimiser
from amc.training.shared_gradient import gradient

RETRIES = 3
"""How often in a row a training goes back to the end of its last epoch."""

LOWERED = 5
"""How often the rate is lowered to a quarter because the first losses rise."""

RISEN, FIRST = 2.0, 5
"""A loss rises if so many steps have this multiple of what the very first have, on average."""

TOGETHER = 10
"""Steps whose losses a GPU hands over at once: it stands still while they are looked at."""


class DivergedError(AmcError):
    """A training whose loss is no number, whatever the rate."""


@dataclass(frozen=True)
class Step:
    """Progress of training: counters from 1, the loss of the batch, the learning rate."""

    epoch: int
    step: int
    total: int
    loss: float
    learning_rate: float


@repeatable()
def train(
    model: nn.Module,
    stream: Loader,
    recipe: Recipe,
    loss: Loss = cross_entropy,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[int, nn.Module], None] = lambda epoch, network: None,
    first_epoch: int = 0,
    checkpoint: Checkpoint | None = None,
    judged: BestNetwork | None = None,
    movement: Movement | None = None,
    beside: Beside | None = None,
) -> nn.Module:
    """Trains in place and returns the model in eval mode.

    Without batch norm nothing keeps a rate that is too high from ruining a good network: where
    the losses of the first epoch rise, it begins anew with a quarter of the rate.

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
        judged: the result is the best network that it has seen: at the start, or after an epoch.
        movement: of the model; adds up all steps that count, also those of before a stop.
        beside: changes the model while it is trained.

    Raises:
        DivergedError: the loss is not finite, `RETRIES` times in a row.
        AmcError: the checkpoint is damaged.
    """
    total = max(1, recipe.epochs * len(stream))
    training = _Training(model, recipe, loss, total, movement, beside)
    if checkpoint and (saved := checkpoint.load()):
        training.go_back(saved)
        if judged:
            judged.restore(saved)
    if judged and not judged.scores:
        judged.look(training.network, training.settled)
    retries, lowered = 0, LOWERED if normalised(model) or not training.settled else 0
    while training.epoch < recipe.epochs:
        before = training.state()
        start_epoch(stream, first_epoch + training.epoch)
        with distributed.rank_random_state(training.epoch):
            training.watched = not training.epoch and lowered < LOWERED
            reached = training.run_epoch(stream, on_step)
        if training.watched and not math.isfinite(reached):
            lowered += 1
            training.go_back(before)
            training.factor /= 4
            continue
        if not math.isfinite(reached):
            retries += 1
            if retries > RETRIES:
                raise DivergedError(
                    f"training: the loss is {reached} in epoch {training.epoch + 1} of "
                    f"{recipe.epochs}; a smaller learning rate than {recipe.learning_rate:g} may "
                    "help"
                )
            training.go_back(before)
            training.factor /= 2
            continue
        retries = 0
        if judged:
            judged.look(training.network, training.settled)
        if checkpoint:
            checkpoint.save({**training.state(), **(judged.saved() if judged else {})})
        on_epoch(training.epoch, training.network)
    return judged.best_of(training.finished()) if judged else training.finished()


def normalised(model: nn.Module) -> bool:
    """Whether batch norm bounds what a step of training can do to the network."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


class _Training:
    """A training between two epochs, or within one."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        loss: Loss,
        total: int,
        movement: Movement | None = None,
        beside: Beside | None = None,
    ) -> None:
        self._beside, own = beside, beside.parameters if beside else []
        self.epoch, self.factor, self.watched, self._movement = 0, 1.0, False, movement
        self._losses: list[float] = []
        self._model, self._recipe, self._loss, self._total = model, recipe, loss, total
        self._device, self._sgd = next(model.parameters()).device, optimiser(model, recipe, own)
        self._averaged = Average(model, recipe.ema) if recipe.ema else None

    @property
    def network(self) -> nn.Module:
        """The network as it would be returned now."""
        return self._averaged.module if self._averaged else self._model

    @property
    def settled(self) -> bool:
        """Whether the training alone changes the network; what grows lets losses rise."""
        return self._beside is None or self._beside.settled

    def run_epoch(self, stream: Loader, on_step: Callable[[Step], None]) -> float:
        """One pass; one of its losses, which is not finite if the pass broke off.

        It is infinite if the losses are watched and rise.
        """
        self._losses.clear()
        step, reached = self.epoch * (self._total // max(1, self._recipe.epochs)), 0.0
        together = 1 if self._device.type == "cpu" else TOGETHER
        taken: list[tuple[int, float, Tensor]] = []
        self._model.train()
        for images, labels, whole in slices(stream):
            progress = step / self._total
            rate = self._recipe.set_rate(self._sgd, progress, self.factor)
            images, labels = feed.moved(images, self._device), labels.to(self._device)
            if self._beside:
                self._beside.before_step(step)
            step += 1
            taken.append((step, rate, self._step(images, labels, whole, progress)))
            if len(taken) == together and not math.isfinite(reached := self._tell(taken, on_step)):
                return reached
        if taken and not math.isfinite(reached := self._tell(taken, on_step)):
            return reached
        for network in (self._model, self._averaged):
            if network is not None:
                distributed.broadcast_model(network, mean_buffers=True)
        state = self._model.state_dict().values()
        fine = [t.isfinite().all().to(self._device) for t in state]
        if not bool(torch.stack(fine).all()):
            return math.nan  # the last step has spoilt the weights
        self.epoch += 1
        if self._beside and self.epoch == self._recipe.epochs:
            self._beside.end()
            if self._averaged:
                self._averaged.copy_flags(self._model)
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
            self._losses.append(reached)
        taken.clear()
        return math.inf if self.watched and self._rises() else reached

    def _rises(self) -> bool:
        losses = self._losses
        if len(losses) < 2 * FIRST:
            return False
        return sum(losses[-FIRST:]) > RISEN * sum(map(abs, losses[:FIRST]))

    def _step(self, images: Feed, labels: Tensor, whole: int, progress: float) -> Tensor:
        kind, now = self._device.type, at(self._loss, progress)
        mixed = self._recipe.mixed and kind == "cuda"

        def loss(images: Feed, labels: Tensor) -> Tensor:
            with torch.autocast(kind, torch.bfloat16) if mixed else nullcontext():
                value = now(self._model, images, labels)
            more = self._beside.penalty() if self._beside else None
            return value if more is None else value + more

        trained = [*self._parameters(), *(self._beside.parameters if self._beside else [])]
        for parameter in trained:
            parameter.grad = None
        reached = gradient(trained, loss, images, labels, whole)
        if self._movement:
            self._movement.add()
        if self._recipe.clip:
            clip_by_filter_norm(self._parameters(), self._recipe.clip)
        self._sgd.step()
        if self._beside:
            self._beside.after_step()
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
        for number, parameter in enumerate(self._parameters()):
            if (buffer := self._sgd.state[parameter].get("momentum_buffer")) is not None:
                state[f"momentum.{number}"] = buffer
        if self._averaged:
            state |= {f"average.{name}": t for name, t in self._averaged.state_dict().items()}
        if self._movement:
            state |= {f"movement.{name}": t for name, t in self._movement.sums.items()}
        if self._beside:
            state |= {f"beside.{name}": t for name, t in self._beside.state().items()}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def go_back(self, state: dict[str, Tensor]) -> None:
        """To what `state` gave."""
        self.epoch, self.factor = int(state["epoch"]), float(state["factor"])
        torch.set_rng_state(state["random"].cpu())
        self._model.load_state_dict(_under("model.", state))
        if self._averaged:
            self._averaged.load_state_dict(_under("average.", state))
        if self._movement:
            for name, moved in _under("movement.", state).items():
                self._movement.sums[name].copy_(moved)
        if self._beside:
            self._beside.go_back(_under("beside.", state))
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


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
