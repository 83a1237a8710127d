"""Batch normalisation after a cut: statistics of the network as it is now."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.runtime import distributed, feed
from amc.runtime.feed import Feed
from amc.tasks.evaluate import evaluating


def adapt_batchnorm(model: nn.Module, batches: Iterable[tuple[Feed, Tensor]]) -> nn.Module:
    """Re-estimates running means and variances, in place; everything else stays in eval mode.

    The average over all images replaces the old statistics: each batch counts by its size, so that
    a short last one has no more say than its images. Momentum is put back afterwards. Ranks
    take turns at the batches.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return model
    momenta = [m.momentum for m in norms]
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        seen = 0
        try:
            for images, _ in distributed.shard(batches):
                count = feed.samples(images)
                seen += count
                for norm in norms:
                    norm.momentum = count / seen  # of the running average
                feed.call(model, feed.moved(images, device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        if distributed.world_size() > 1:
            _average(norms, seen, device)
    return model


def _average(norms: Sequence[_BatchNorm], seen: int, device: torch.device) -> None:
    """Statistics over the images of all ranks, from those that each has of the ones it saw."""
    share = seen / distributed.all_reduce_sum(
        torch.tensor(float(seen), dtype=torch.float64, device=device)
    )
    for norm in norms:
        for running in (norm.running_mean, norm.running_var):
            if running is not None:
                running.copy_(distributed.all_reduce_sum(running.double() * share))
        if norm.num_batches_tracked is not None:
            distributed.all_reduce_sum(norm.num_batches_tracked)
