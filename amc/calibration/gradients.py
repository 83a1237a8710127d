"""Gradients of the task's loss by weights, on images with their targets.

In eval mode, on a copy of the network: batch norm keeps its statistics and nothing is dropped, so
that the loss of an image does not depend on the others of its batch.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from amc.calibration.columns import slices
from amc.calibration.statistics import Batches
from amc.graph.groups import Member
from amc.graph.shrink import duplicate, tensors
from amc.runtime import distributed, feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.tasks.evaluate import predictions
from amc.tasks.precision import precise
from amc.tasks.task import Task


def differentiable(model: nn.Module, names: Collection[str]) -> tuple[nn.Module, list[Tensor]]:
    """A copy in eval mode, and those of its tensors that gradients are wanted of."""
    copy = duplicate(model).eval()
    for module in copy.modules():
        if isinstance(module, nn.RNNBase):  # cuDNN has gradients of these in training mode only
            module.dropout, module.training = 0.0, True
    state = tensors(copy)
    return copy, [state[name].requires_grad_(True) for name in names]


@precise()
def mean_gradients(
    model: nn.Module, names: Sequence[str], batches: Batches, task: Task
) -> Mapping[str, Tensor]:
    """Gradients of the mean loss over all images.

    Args:
        model: never changed.
        names: of floating-point tensors of the model.
        batches: images and their targets; ranks take turns at them.
        task: whose loss it is.

    Returns:
        Tensor name -> gradient, float64; zeros where the loss does not depend on the tensor. The
        same on all ranks.

    Raises:
        AmcError: there are no images, or the loss has no gradient, or one that is not finite.
    """
    copy, wanted = differentiable(model, names)
    device = next(model.parameters()).device
    sums = {
        name: torch.zeros_like(t, dtype=torch.float64)
        for name, t in zip(names, wanted, strict=True)
    }
    seen = torch.zeros((), dtype=torch.float64)
    for images, targets in distributed.shard(batches):
        found = _gradients(copy, wanted, feed.moved(images, device), targets.to(device), task)
        for name, gradient in zip(names, found, strict=True):
            sums[name] += gradient
        seen += len(targets)
    count = float(distributed.all_reduce_sum(seen))
    if not count:
        raise AmcError("calibration: the data yields no images")
    return {name: _finite(name, distributed.all_reduce_sum(s)) / count for name, s in sums.items()}


@precise()
def squared_changes(
    model: nn.Module,
    members: Mapping[str, Sequence[Member]],
    batches: Batches,
    task: Task,
) -> Mapping[str, Tensor]:
    """How the loss of every image changes, to first order, without some slices of weights.

    For an image n and a channel, ``s_n = sum w dL_n/dw`` over the slices of the channel. Images go
    through the network one at a time, whatever the layout of its activations; or as two copies of
    one, where it cannot take a single one.

    Args:
        model: never changed.
        members: group name -> its slices of tensors, of the same channels.
        batches: images and their targets; ranks take turns at them.
        task: whose loss it is.

    Returns:
        Group name -> mean over the images of s_n squared, [size], float64; the same on all ranks.

    Raises:
        AmcError: as `mean_gradients`.
    """
    names = sorted({one.tensor for every in members.values() for one in every})
    copy, wanted = differentiable(model, names)
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    seen = torch.zeros((), dtype=torch.float64)
    copies = 0
    for image, target in _one_by_one(distributed.shard(batches)):
        image, target = feed.moved(image, device), target.to(device)
        copies = copies or _fewest_copies(copy, wanted, image, target, task)
        image, target = _repeated(image, target, copies)
        found = _gradients(copy, wanted, image, target, task)
        with torch.no_grad():
            products = (w.double() * g / copies for w, g in zip(wanted, found, strict=True))
            by_name = dict(zip(names, products, strict=True))
            for group, every in members.items():
                parts = [slices(by_name[one.tensor], one).sum(1) for one in every]
                square = torch.stack(parts).sum(0).square()
                sums[group] = sums[group] + square if group in sums else square
        seen += 1
    count = float(distributed.all_reduce_sum(seen))
    if not count:
        raise AmcError("calibration: the data yields no images")
    return {name: _finite(name, s) / count for name, s in distributed.totals(sums, device).items()}


def _gradients(
    copy: nn.Module, wanted: Sequence[Tensor], images: Feed, targets: Tensor, task: Task
) -> list[Tensor]:
    """Gradients of the summed loss of a batch."""
    with torch.enable_grad():
        loss = task.summed_loss(predictions(copy, images, task), targets)
    if not loss.requires_grad:
        raise AmcError(
            "calibration: the loss has no gradient: the network turns gradients off in forward, "
            "or the loss does not depend on its outputs"
        )
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    pairs = zip(wanted, found, strict=True)
    return [torch.zeros_like(w) if g is None else g for w, g in pairs]


def _one_by_one(batches: Batches) -> Iterator[tuple[Feed, Tensor]]:
    for images, targets in batches:
        yield from zip(
            feed.parted(images, lambda x: torch.split(x, 1)), torch.split(targets, 1), strict=True
        )


def _repeated(image: Feed, target: Tensor, copies: int) -> tuple[Feed, Tensor]:
    if copies == 1:
        return image, target
    return feed.joined([image] * copies), torch.cat([target] * copies)


def _fewest_copies(
    copy: nn.Module, wanted: Sequence[Tensor], image: Feed, target: Tensor, task: Task
) -> int:
    """One; or two where a batch of one image is too small: ``squeeze()`` drops its dimension."""
    try:
        _gradients(copy, wanted, image, target, task)
    except Exception:  # whatever the network or the loss raises; two may fail likewise, and say so
        return 2
    return 1


def _finite(name: str, values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise AmcError(
            f"{name}: the gradient of the loss is not finite (NaN or infinity in weights, data or "
            "the loss)"
        )
    return values
