"""One step of training that the ranks share: each takes a slice of the batch.

The gradient is that of the whole batch, as far as the loss is a mean over its images; batch norm
normalises by the slice that it sees.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amc.runtime import distributed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed


def gradient(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Feed, Tensor], Tensor],
    images: Feed,
    labels: Tensor,
    whole: int,
) -> Tensor:
    """Sets the gradients of the parameters, which have none yet; the loss of the whole batch.

    All ranks have the same ones afterwards, bit for bit.

    Args:
        parameters: that are trained.
        loss: of images and labels, a mean.
        images: this rank's slice of the batch.
        labels: likewise.
        whole: images in the batch.
    """
    if distributed.world_size() == 1:
        value = loss(images, labels)
        backward(value)
        return value.detach()
    reached = torch.zeros(1, device=labels.device)
    if len(labels):  # fewer images than ranks leave some without
        value = loss(images, labels) * (len(labels) / whole)
        backward(value)
        reached += value.detach()
    return _over_ranks(parameters, reached)


def backward(value: Tensor) -> None:
    """Sets the gradients of what a loss depends on.

    Raises:
        AmcError: it depends on nothing that can be trained.
    """
    if not value.requires_grad:
        raise AmcError(
            "training: the loss has no gradient: the network turns gradients off in forward, or "
            "none of its parameters is trained (requires_grad)"
        )
    torch.autograd.backward(value)


def _over_ranks(parameters: Sequence[nn.Parameter], reached: Tensor) -> Tensor:
    """The sums of gradients and of the loss [1], in one message."""
    there = torch.tensor([p.grad is not None for p in parameters]).to(reached)
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    every = distributed.all_reduce_sum(torch.cat([reached, there, *(g.flatten() for g in own)]))
    head, tail = every[: 1 + len(own)].tolist(), every[1 + len(own) :]
    sums = torch.split(tail, [p.numel() for p in parameters])
    for parameter, used, found in zip(parameters, head[1:], sums, strict=True):
        parameter.grad = found.view_as(parameter).to(parameter.dtype) if used else None
    return every[0]
