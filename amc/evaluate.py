"""How good a network is on labelled images."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc import ranks
from amc.errors import AmcError

TEMPERATURE = 4.0
"""Of the predictions that `Score.divergence` compares, so that all classes count."""


@dataclass(frozen=True)
class Score:
    """Result of one validation pass.

    Attributes:
        accuracy: correct top-1 predictions, 0 to 1.
        loss: mean cross-entropy, natural logarithm.
        images: how many were seen.
        divergence: mean Kullback-Leibler divergence of the softened predictions from those of
            another network, if there was one to compare with.
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


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """The network's class scores [batch, classes], also when they come wrapped.

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
            f"the network must return logits, alone or as 'logits', got {type(found).__name__}"
        )
    return found


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    batch_statistics: bool = False,
    wished: Sequence[Tensor] | None = None,
) -> Score:
    """Accuracy, cross-entropy and divergence in eval mode; the model's modes are restored.

    Args:
        model: returns logits, see `logits`.
        batches: labelled images.
        batch_statistics: batch norms use mean and variance of each batch instead of their running
            ones, which stay as they are: what they would be once adapted, for no second pass.
        wished: what `softened` gave for another network on the same batches.

    Ranks take turns at the batches, and all of them return the score of one process, bit for bit.
    """
    device = next(model.parameters()).device
    sums = [torch.zeros(0, 4, dtype=torch.float64, device=device)]
    adapted = normalising_by_batch(model) if batch_statistics else contextlib.nullcontext()
    with torch.inference_mode(), evaluating(model), adapted:
        for number, (inputs, labels) in enumerate(ranks.own(batches)):
            scores, labels = logits(model, inputs.to(device)), labels.to(device)
            correct = (scores.argmax(dim=1) == labels).sum()
            loss = F.cross_entropy(scores.float(), labels, reduction="sum")
            divergence = torch.zeros_like(loss)
            if wished is not None:
                found = F.log_softmax(scores.float() / TEMPERATURE, dim=1)
                divergence = F.kl_div(found, wished[number], reduction="sum", log_target=True)
            parts = correct, loss, divergence, torch.full_like(loss, len(labels))
            sums.append(torch.stack([part.double() for part in parts])[None])
    return _score(ranks.in_order(torch.cat(sums)), wished is not None)


def _score(sums: Tensor, compared: bool) -> Score:
    """From correct predictions, loss, divergence and images of every batch, added in order."""
    correct = loss = divergence = images = 0.0
    for batch in sums.tolist():
        correct, loss = correct + batch[0], loss + batch[1]
        divergence, images = divergence + batch[2], images + batch[3]
    seen = max(images, 1)
    apart = divergence / seen if compared else None
    return Score(correct / seen, loss / seen, int(images), apart)


def softened(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Logarithms of a network's predictions at `TEMPERATURE`, [batch, classes] each.

    Of this rank's own batches, as `evaluate` wants them.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), evaluating(model):
        return [
            F.log_softmax(logits(model, inputs.to(device)).float() / TEMPERATURE, dim=1)
            for inputs, _ in ranks.own(batches)
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
