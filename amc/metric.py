"""Which channels of a group to keep: Lasso, optimal brain surgeon, weight norms, random.

A selector answers for every number of channels; whatever can be computed once for the group is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from amc.graph.groups import ChannelGraph, ChannelGroup, Layer, Member
from amc.graph.labels import FloatArray, IntArray
from amc.graph.surgery import tensors
from amc.solve.columns import as_columns, group_columns
from amc.solve.lasso import LassoPath
from amc.solve.obs import Reader, elimination_order
from amc.solve.stats import LayerStats

Selection = Callable[[int], IntArray]
"""Number of channels -> the kept ones, increasing."""


@dataclass(frozen=True)
class Evidence:
    """What a selector may look at.

    Attributes:
        graph: the channel graph.
        model: the network, never changed.
        stats: layer name -> statistics, for the readers that were calibrated.
        seed: for random selection.
    """

    graph: ChannelGraph
    model: nn.Module
    stats: Mapping[str, LayerStats]
    seed: int = 0


Selector = Callable[[Evidence, ChannelGroup], Selection]


def lasso(evidence: Evidence, group: ChannelGroup) -> Selection:
    """Lasso over all readers of the group, each scaled by its own output energy.

    A group whose readers have no statistics falls back to `l2`.
    """
    readers = [evidence.graph.layer(n) for n in group.readers if n in evidence.stats]
    if not readers:
        return l2(evidence, group)
    gram, moment = np.zeros((group.size, group.size)), np.zeros(group.size)
    state = tensors(evidence.model)
    for layer in readers:
        a, c = contributions(evidence.stats[layer.name], state[layer.weight], layer, group)
        gram, moment = gram + a, moment + c
    return LassoPath(gram, moment).keep


def obs(evidence: Evidence, group: ChannelGroup) -> Selection:
    """Group optimal brain surgeon over all readers of the group; nested, exact for each count.

    A group whose readers have no statistics falls back to `l2`.
    """
    state = tensors(evidence.model)
    readers = []
    for layer in (evidence.graph.layer(n) for n in group.readers if n in evidence.stats):
        weight = state[layer.weight]
        columns = group_columns(layer, group, weight)
        readers.append(Reader(evidence.stats[layer.name], as_columns(weight, layer), columns))
    if not readers:
        return l2(evidence, group)
    order = elimination_order(readers)
    return lambda count: np.sort(order[len(order) - count :])


def l1(evidence: Evidence, group: ChannelGroup) -> Selection:
    """Largest sum of absolute weights, over all layers that write or read the channel."""
    return _ranked(_weight_norm(evidence, group, 1))


def l2(evidence: Evidence, group: ChannelGroup) -> Selection:
    """Largest Euclidean norm, over all layers that write or read the channel."""
    return _ranked(_weight_norm(evidence, group, 2))


def random(evidence: Evidence, group: ChannelGroup) -> Selection:
    """A random nested order, the same for the same seed."""
    rng = np.random.default_rng([evidence.seed, *group.name.encode()])
    return _ranked(rng.random(group.size))


def contributions(
    stats: LayerStats, weight: Tensor, layer: Layer, group: ChannelGroup
) -> tuple[FloatArray, FloatArray]:
    """The Lasso problem of one reader: Gram [C, C] and moment [C] of the channels' contributions.

    Channel i contributes ``X_i W_i`` to the outputs; inputs outside of the group keep theirs, so
    the target is what they leave. Both are divided by the reader's output energy.
    """
    columns = group_columns(layer, group, weight)  # [C, m]
    w = as_columns(weight, layer)  # [G, D, N]
    others = torch.ones(w.shape[1], dtype=torch.bool)
    others[columns.flatten()] = False
    rest = others.nonzero().flatten().to(w.device)
    moment = stats.xy - stats.xx[:, :, rest] @ w[:, rest]
    flat = columns.flatten().to(w.device)
    picked = w[:, flat]
    gram = (stats.xx[:, flat][:, :, flat] * (picked @ picked.mT)).sum(dim=0)
    size, width = columns.shape
    gram = gram.reshape(size, width, size, width).sum(dim=(1, 3))
    along = (moment[:, flat] * picked).sum(dim=(0, 2)).reshape(size, width).sum(dim=1)
    scale = max(stats.energy, torch.finfo(torch.float64).tiny)
    return (gram / scale).cpu().numpy(), (along / scale).cpu().numpy()


def _weight_norm(evidence: Evidence, group: ChannelGroup, power: int) -> FloatArray:
    """Mean over the weights of the group of their norms per channel, each weight scaled alike."""
    state, score = tensors(evidence.model), np.zeros(group.size)
    weights = {layer.weight for layer in evidence.graph.layers}
    for member in group.members:
        if member.tensor in weights:
            norm = _slice_norms(state[member.tensor], member, power)
            score += norm / max(float(norm.mean()), np.finfo(float).tiny)
    return score


def _slice_norms(weight: Tensor, member: Member, power: int) -> FloatArray:
    slices = weight.detach().double().movedim(member.dim, 0).flatten(1)
    picked = slices[torch.from_numpy(member.index).to(slices.device)].flatten(1)  # [C, m * rest]
    norms: FloatArray = picked.norm(p=power, dim=1).cpu().numpy()
    return norms


def _ranked(score: FloatArray) -> Selection:
    order = np.argsort(-score, kind="stable")
    return lambda count: np.sort(order[:count]).astype(np.int64)


SELECTORS: dict[str, Selector] = {
    "lasso": lasso,
    "obs": obs,
    "l1": l1,
    "l2": l2,
    "random": random,
}
