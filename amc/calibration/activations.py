"""What layers read, channel by channel: how large it is, and how often it is zero."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amc.calibration.statistics import Batches
from amc.graph.attention.watching import Watching
from amc.graph.groups import Layer
from amc.graph.shrink import tensors
from amc.runtime import distributed, feed
from amc.runtime.errors import AmcError
from amc.tasks.evaluate import evaluating

_BEHIND = {
    torch.nn.functional.linear: 0,
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
    torch.conv_transpose1d: 1,
    torch.conv_transpose2d: 2,
    torch.conv_transpose3d: 3,
}
"""Operators of layers -> dimensions of their input behind that of the channels."""


@dataclass(frozen=True)
class Activations:
    """What one layer reads, over all images, positions and executions.

    Attributes:
        magnitude: mean absolute value, [I] along the weight's dimension of inputs; channels at the
            same place of every group of a convolution share an entry.
        zeros: part of the values that are zero, [I].
    """

    magnitude: Tensor
    zeros: Tensor


class _Reading(Watching):
    """While active, adds up what the layers read.

    Attributes:
        sums: weight name -> [3, I]: absolute values, zeros, and how many values there were.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        super().__init__()
        state = tensors(model)
        self._layers = {id(state[layer.weight]): layer for layer in layers}
        self.sums: dict[str, Tensor] = {}

    def ran(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs the operator; looks at its input when its weight belongs to a wanted layer."""
        if func in _BEHIND:
            given = {**dict(zip(("input", "weight"), args, strict=False)), **kwargs}
            layer = self._layers.get(id(given["weight"]))
            if layer is not None:
                self._add(layer, given["input"].detach(), given["weight"], _BEHIND[func])
        return func(*args, **kwargs)

    def _add(self, layer: Layer, x: Tensor, weight: Tensor, behind: int) -> None:
        rows = x.movedim(x.ndim - 1 - behind, 0)
        rows = rows.reshape(len(rows), -1)
        count = torch.full((len(rows),), float(rows.shape[1]), device=x.device)
        found = torch.stack([rows.abs().sum(1).double(), (rows == 0).sum(1).double(), count])
        found = found.reshape(3, -1, weight.shape[layer.in_dim]).sum(1)
        before = self.sums.get(layer.weight)
        self.sums[layer.weight] = found if before is None else before + found


def activations_of(
    model: nn.Module, layers: Sequence[Layer], batches: Batches
) -> Mapping[str, Activations]:
    """What layers read, in eval mode; one pass over the images.

    Args:
        model: never changed.
        layers: convolutions, transposed or not, and linear layers; not depthwise.
        batches: images; ranks take turns at them.

    Returns:
        Name of the weight -> what is read, the same on all ranks; layers that were not seen to
        run are missing.

    Raises:
        AmcError: there are no images, or what a layer reads is not finite.
    """
    reading, seen = _Reading(model, layers), 0
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        for images, _ in distributed.shard(batches):
            with reading:
                feed.call(model, feed.moved(images, device))
            seen += 1
    sums = distributed.totals(reading.sums, device)
    if not distributed.all_reduce_sum(torch.tensor(seen)):
        raise AmcError("calibration: the data yields no images")
    found = {}
    for name, (size, zeros, count) in sums.items():
        if not bool(size.isfinite().all()):
            raise AmcError(f"{name}: what the layer reads is not finite (NaN or infinity)")
        found[name] = Activations(size / count, zeros / count)
    return found
