"""How good a network is on images with their targets."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.errors import AmcError
from amc.task import CLASSIFICATION, Results, Task

TEMPERATURE = 4.0
"""Of the predictions that `Score.divergence` compares, so that all classes count."""


@dataclass(frozen=True)
class Score:
    """Result of one validation pass.

    Attributes:
        accuracy: correct top-1 predictions, 0 to 1; of another task, its own number.
        loss: mean cross-entropy, natural logarithm, or the task's own loss.
        images: how many were seen.
        divergence: mean Kullback-Leibler divergence of the softened predictions from those of
            another network, or the task's own distance, if there was one to compare with.
    """

    accuracy: float
    loss: float
    images: int
    divergence: float | None = None


def head(
    batches: Iterable[tuple[Tensor, Tensor]], images: int, size: int
) -> list[tuple[Tensor, Tensor]]:
    """The first ``images`` images, in memory, in even batches of ``size`` at most."""
    parts, found = [], 0
    for inputs, labels in batches:
        parts.append((inputs[: images - found], labels[: images - found]))
        found += len(parts[-1][1])
        if found >= images:
            break
    if not parts:
        return []
    every, labels = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    count = math.ceil(len(labels) / size)
    return list(zip(every.tensor_split(count), labels.tensor_split(count), strict=True))


def tail(batches: Iterable[tuple[Tensor, Tensor]], images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Everything but the first ``images`` images."""
    for inputs, labels in batches:
        if images < len(labels):
            yield inputs[images:], labels[images:]
        images = max(0, images - len(labels))


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """The network's output as one tensor (class scores [batch, classes]), also when it is wrapped.

    Taken from an output's ``logits`` (Hugging Face), from ``out`` or ``logits`` of a dictionary
    (torchvision's segmentation), or as the first of several outputs (auxiliary heads).
    """
    found: Any = model(images)
    if isinstance(found, Mapping):  # Hugging Face's outputs are dictionaries as well
        found = next((found[key] for key in ("logits", "out") if key in found), found)
    elif isinstance(found, list | tuple) and found:
        found = getattr(found, "logits", found[0])
    if not isinstance(found, Tensor):
        raise AmcError(
            "the network must return a tensor, alone, first of several, or as 'logits' or 'out', "
            f"got {type(found).__name__}"
        )
    return found


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    batch_statistics: bool = False,
    wished: Sequence[Tensor] = (),
    task: Task = CLASSIFICATION,
) -> Score:
    """Score, loss and divergence in eval mode; the model's modes are restored.

    Args:
        model: see `predictions`.
        batches: images and their targets.
        batch_statistics: batch norms use mean and variance of each batch instead of their running
            ones, which stay as they are: what they would be once adapted, for no second pass.
        wished: what `softened` gave for another network on the same batches.
        task: what is measured.
    """
    device = next(model.parameters()).device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    divergence, images = torch.zeros_like(loss), 0

    def results() -> Results:
        """What the score goes through; everything else is summed up on the way."""
        nonlocal loss, divergence, images
        for number, (inputs, targets) in enumerate(batches):
            found, targets = predictions(model, inputs.to(device)), targets.to(device)
            loss += task.summed_loss(found, targets)
            if wished:
                soft = task.softened(found.float(), TEMPERATURE)
                divergence += task.apart(soft, wished[number])
            images += len(targets)
            yield found, targets

    adapted = normalising_by_batch(model) if batch_statistics else contextlib.nullcontext()
    with torch.inference_mode(), evaluating(model), adapted:
        passing = iter(results())
        first = next(passing, None)
        score = task.scored(chain([first], passing)) if first else 0.0
        for _ in passing:  # a score that stopped early leaves a rest
            pass
    apart = float(divergence) / max(images, 1) if wished else None
    return Score(score, float(loss) / max(images, 1), images, apart)


def softened(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], task: Task = CLASSIFICATION
) -> list[Tensor]:
    """What a network puts out, in the form that divergence compares.

    Logarithms of its predictions at `TEMPERATURE`, [batch, classes] each, or, of another task, its
    outputs.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), evaluating(model):
        return [
            task.softened(predictions(model, inputs.to(device)).float(), TEMPERATURE)
            for inputs, _ in batches
        ]


@contextlib.contextmanager
def normalising_by_batch(model: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics of the batch inside, and leave their own untouched."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm in norms:
            norm.training, norm.track_running_stats = False, True


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
