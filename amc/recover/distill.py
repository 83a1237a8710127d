"""Distillation: the pruned network also learns from the original one."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.evaluate import evaluating, logits

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, images, labels) -> scalar to minimise."""


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the labels."""
    return F.cross_entropy(logits(model, images), labels)


def distillation(teacher: nn.Module, temperature: float = 4.0, weight: float = 4.0) -> Loss:
    """Cross-entropy of the labels plus ``weight * KL(teacher || student)`` at a temperature.

    No factor temperature**2 (Hinton et al. 2015): the defaults are PocketFlow's, which weighs the
    softened term with 4 and leaves the factor out; in Hinton's form the same loss has the weight
    4 / 4**2 = 0.25. The teacher runs in eval mode and is not changed.
    """

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        scores = logits(model, images)
        with torch.no_grad(), evaluating(teacher):
            wanted = F.log_softmax(logits(teacher, images) / temperature, dim=1)
        softened = F.log_softmax(scores / temperature, dim=1)
        divergence = F.kl_div(softened, wanted, reduction="batchmean", log_target=True)
        return F.cross_entropy(scores, labels) + weight * divergence

    return loss
