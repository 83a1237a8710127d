"""Batch normalisation after a cut: statistics of the network as it is now."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.evaluate import evaluating


def adapt_batchnorm(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
    """Re-estimates running means and variances, in place; everything else stays in eval mode.

    The plain average over all batches replaces the old statistics. Momentum is put back
    afterwards: left at None, later training would average over its whole history.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return model
    momenta = [m.momentum for m in norms]
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for images, _ in batches:
                model(images.to(device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return model
