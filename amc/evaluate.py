"""How good a network is on labelled images."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.errors import AmcError


@dataclass(frozen=True)
class Score:
    """Result of one validation pass.

    Attributes:
        accuracy: correct top-1 predictions, 0 to 1.
        loss: mean cross-entropy, natural logarithm.
        images: how many were seen.
    """

    accuracy: float
    loss: float
    images: int


def head(
    batches: Iterable[tuple[Tensor, Tensor]], images: int, size: int
) -> list[tuple[Tensor, Tensor]]:
    """The first ``images`` images in batches of ``size``, kept in memory."""
    parts, found = [], 0
    for inputs, labels in batches:
        parts.append((inputs[: images - found], labels[: images - found]))
        found += len(parts[-1][1])
        if found >= images:
            break
    if not parts:
        return []
    every, labels = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    return [(every[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size)]


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


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Accuracy and cross-entropy in eval mode; the model's modes are restored."""
    device = next(model.parameters()).device
    correct = torch.zeros((), dtype=torch.long, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    images = 0
    with torch.inference_mode(), evaluating(model):
        for inputs, labels in batches:
            scores, labels = logits(model, inputs.to(device)), labels.to(device)
            correct += (scores.argmax(dim=1) == labels).sum()
            loss += F.cross_entropy(scores.float(), labels, reduction="sum")
            images += len(labels)
    return Score(int(correct) / max(images, 1), float(loss) / max(images, 1), images)


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
