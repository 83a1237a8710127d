"""Distillation: the pruned network also learns from the original one."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from amc.graph.channel_graph import ChannelGraph
from amc.graph.plan import Plan
from amc.runtime import feed
from amc.runtime.feed import Feed
from amc.tasks.evaluate import evaluating, predictions
from amc.tasks.task import CLASSIFICATION, Task

Loss = Callable[[nn.Module, Feed, Tensor], Tensor]
"""(network, images, targets) -> scalar to minimise."""


@runtime_checkable
class Changing(Protocol):
    """A loss that changes in the course of the training."""

    def __call__(self, model: nn.Module, images: Feed, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        ...

    def at(self, progress: float) -> Loss:
        """The loss after this part of the training, in [0, 1]."""
        ...


def at(loss: Loss, progress: float) -> Loss:
    """The loss after this part of the training, in [0, 1]."""
    return loss.at(progress) if isinstance(loss, Changing) else loss


def supervised(task: Task = CLASSIFICATION, smoothing: float = 0.0) -> Loss:
    """The loss of the targets alone; labels may be smoothed (Szegedy et al. 2016, section 7)."""

    def loss(model: nn.Module, images: Feed, targets: Tensor) -> Tensor:
        return task.batch_loss(predictions(model, images, task), targets, smoothing)

    return loss


cross_entropy = supervised()
"""Mean cross-entropy of the labels."""


@dataclass(frozen=True)
class Distillation:
    """Cross-entropy of the labels plus ``weight * T^2 * KL(teacher || student)`` at temperature T.

    Hinton et al. 2015 (arXiv:1503.02531, section 2.1): with T^2 the term keeps its weight whatever
    the temperature. PocketFlow leaves it out: its weight of 4 at 4 is 0.25 here, which recovers
    less (experiments/README.md). The teacher runs in eval mode and is not changed. Another task
    has its own loss in place of the cross-entropy, its distance in place of KL, and no T.

    Attributes:
        teacher: the original network.
        temperature, weight: see above.
        smoothing: of the labels.
        features: name of a layer that is a module -> the teacher's output channels that the
            student has too [C'], increasing.
        feature_weight: of the mean over these layers of ``||S - T||^2 / ||T||^2``, S and T being
            what student and teacher put out there (Romero et al. 2015, arXiv:1412.6550; no
            regressor is needed between channels that correspond).
        task: what the network is for.
        schedule: how the weights of everything but the targets fall from one to zero over the
            training.
    """

    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 2.0
    smoothing: float = 0.0
    features: Mapping[str, Tensor] = field(default_factory=dict)
    feature_weight: float = 0.0
    task: Task = CLASSIFICATION
    schedule: Literal["constant", "linear", "cosine"] = "constant"

    def at(self, progress: float) -> "Distillation":
        """The loss after this part of the training, in [0, 1]."""
        if self.schedule == "constant":
            return self
        share = 1 - progress
        if self.schedule == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * progress))
        features = share * self.feature_weight
        return replace(self, weight=share * self.weight, feature_weight=features)

    def __call__(self, model: nn.Module, images: Feed, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        names = list(self.features) if self.feature_weight else []
        with outputs_of(model, names) as own:
            found = predictions(model, images, self.task)
        with torch.no_grad(), evaluating(self.teacher), outputs_of(self.teacher, names) as theirs:
            said = predictions(self.teacher, images, self.task)
            reference = self.task.soften(said, self.temperature)
        divergence = self.task.divergence(self.task.soften(found, self.temperature), reference)
        loss = self.task.batch_loss(found, targets, self.smoothing)
        weight = self.weight * self.task.sharpness(self.temperature)
        loss = loss + weight * divergence / feed.samples(found)
        if own:
            loss = loss + self.feature_weight * self._apart(own, theirs)
        return loss

    def _apart(self, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
        parts = []
        for name, found in own.items():
            reference = theirs[name].index_select(1, self.features[name].to(found.device))
            energy = reference.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
            parts.append((found - reference).square().mean() / energy)
        return torch.stack(parts).mean()


@contextmanager
def outputs_of(model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """What these modules put out while the context lasts; the last time, if it is several."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = output

        return hook

    handles = [model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def outputs_left(graph: ChannelGraph, original: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Layers that are modules -> the outputs that the plan leaves them, see `Distillation`."""
    modules = dict(original.named_modules())
    cuts = {(c.tensor, c.dim): c for c in plan.cuts}
    found = {}
    for layer in graph.layers:
        if layer.name not in modules or layer.calls != 1:
            continue
        cut = cuts.get((layer.weight, layer.out_dim))
        kept = range(layer.out_channels) if cut is None else cut.keep
        if cut is None or cut.size == layer.out_channels:
            found[layer.name] = torch.tensor(list(kept))
    return found
