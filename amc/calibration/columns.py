"""A layer's weight as the matrix of a regression: rows are inputs, columns are outputs."""

import torch
from torch import Tensor

from amc.graph.groups import ChannelGroup, Layer, Member


def as_columns(weight: Tensor, layer: Layer) -> Tensor:
    """A weight [O, I/G, *kernel] as the coefficients of its regression, [G, D, N], float64."""
    flat = weight.detach().double().reshape(layer.groups, weight.shape[0] // layer.groups, -1)
    return flat.mT


def as_weight(columns: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_columns`, [G, D', N] -> [O, I', *kernel]; kernel, dtype of ``like``."""
    kernel = like.shape[2:]
    weight = columns.mT.reshape(-1, columns.shape[1] // kernel.numel(), *kernel)
    return weight.to(like)


def input_columns(inputs: Tensor, weight: Tensor) -> Tensor:
    """Rows of the coefficient matrix that belong to these input slices, [...] -> [..., kernel]."""
    kernel = weight.shape[2:].numel()
    return inputs[..., None] * kernel + torch.arange(kernel)


def slices(tensor: Tensor, member: Member) -> Tensor:
    """What of a tensor of the member's shape goes with each channel of its group, [size, n]."""
    rows = tensor.movedim(member.dim, 0)
    rows = rows.reshape(len(rows), -1)
    return rows[torch.from_numpy(member.index).to(rows.device)].flatten(1)


def group_columns(layer: Layer, group: ChannelGroup, weight: Tensor) -> Tensor:
    """Rows of a reader's coefficient matrix per channel of the group, [C, m]."""
    member = next(m for m in group.members if (m.tensor, m.dim) == (layer.weight, layer.in_dim))
    return input_columns(torch.from_numpy(member.index), weight).flatten(1)
