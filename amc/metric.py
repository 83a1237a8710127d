"""Which channels of a group to keep: Lasso, optimal brain surgeon, weight norms, random.

A selector answers for every number of channels; whatever can be computed once for the group is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from amc.graph.groups import ChannelGraph, ChannelGroup, Member
from amc.graph.labels import FloatArray, IntArray
from amc.graph.surgery import tensors
from amc.solve.columns import as_columns, group_columns
from amc.solve.lasso import Ladder
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
    """Lasso over all readers of the group, solved anew on the way down.

    A group whose readers have no statistics falls back to `l2`.
    """
    readers = _readers(evidence, group)
    return Ladder(readers).keep if readers else l2(evidence, group)


def obs(evidence: Evidence, group: ChannelGroup) -> Selection:
    """Group optimal brain surgeon over all readers of the group; nested, exact for each count.

    A group whose readers have no statistics falls back to `l2`.
    """
    readers = _readers(evidence, group)
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


def _readers(evidence: Evidence, group: ChannelGroup) -> list[Reader]:
    """The layers that read the group and have statistics, as regressions."""
    state, readers = tensors(evidence.model), []
    for layer in (evidence.graph.layer(n) for n in group.readers if n in evidence.stats):
        weight = state[layer.weight]
        columns = group_columns(layer, group, weight)
        readers.append(Reader(evidence.stats[layer.name], as_columns(weight, layer), columns))
    return readers


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
