"""Trainings of small networks on a GPU, recorded once as a CUDA graph and replayed.

The kernels of a small network are shorter than the time that it takes to start them, so that a GPU
mostly waits for Python. What is computed is the same. A record is only right where every step does
the same whatever the numbers are, which is known of the bundled networks, and not of those of
users; therefore it is no part of the product.
"""

import torch
from torch import Tensor

from amc.runtime.feed import Feed
from amc.training import trainer
from amc.training.distillation import Distillation
from amc.training.recipe import clip_by_filter_norm

EAGER = 3
"""Steps of every shape of a batch before it is recorded."""


class Recorded:
    """Forward pass, backward pass and clipping of one step, for batches of one shape."""

    def __init__(self, training: "Graphed", images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        self._graph, self._parameters = torch.cuda.CUDAGraph(), training.trained
        for parameter in self._parameters:
            parameter.grad = None
        with torch.cuda.graph(self._graph):
            self._loss = training.gradients(self._images, self._labels)
        self._gradients = [parameter.grad for parameter in self._parameters]

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Sets the gradients; the loss."""
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss.clone()


class Graphed(trainer._Training):
    """A training whose steps are replayed; those of few batches are not recorded."""

    @property
    def trained(self) -> list[Tensor]:
        """What is trained."""
        return [p for p in self._model.parameters() if p.requires_grad]

    def gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Sets the gradients; the loss, of a step that is to be recorded."""
        loss = self._loss(self._model, images, labels)
        torch.autograd.backward(loss)
        if self._recipe.clip:
            clip_by_filter_norm(self._parameters(), self._recipe.clip)
        return loss.detach()

    def _step(self, images: Feed, labels: Tensor, whole: int, progress: float) -> Tensor:
        known: dict[int, Recorded | int] = self.__dict__.setdefault("_known", {})
        found = known.get(len(labels), 0)
        varies = isinstance(self._loss, Distillation) and self._loss.schedule != "constant"
        plain = isinstance(images, Tensor) and self._device.type == "cuda" and not varies
        if not plain or self._recipe.mixed or self._movement or not hasattr(self._loss, "teacher"):
            return super()._step(images, labels, whole, progress)
        assert isinstance(images, Tensor)
        if isinstance(found, int) and found < EAGER:
            known[len(labels)] = found + 1
            return self._on_the_side(images, labels, whole, progress)
        if isinstance(found, int):
            found = known[len(labels)] = Recorded(self, images, labels)
        loss = found(images, labels)
        self._sgd.step()
        if self._averaged:
            self._averaged.update_parameters(self._model)
        return loss

    def _on_the_side(self, images: Tensor, labels: Tensor, whole: int, progress: float) -> Tensor:
        """A usual step, on a stream of its own, as those before a record have to be."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        main = torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            loss = super()._step(images, labels, whole, progress)
        main.wait_stream(side)
        return loss


def install() -> None:
    """All trainings of this process are recorded from now on."""
    trainer._Training = Graphed  # type: ignore[misc]
