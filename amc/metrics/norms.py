"""Weight norms, scales of batch norm, and chance: metrics that need no data."""

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from amc.calibration.columns import slices
from amc.graph.arrays import FloatArray
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import tensors
from amc.metrics.members import levelled
from amc.metrics.metric import Evidence


def l1(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest sum of absolute weights, over all layers that write or read the channel."""
    return _weight_norm(evidence, group, 1)


def l2(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest Euclidean norm, over all layers that write or read the channel."""
    return _weight_norm(evidence, group, 2)


def bn_scale(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest |gamma| of the batch norms of the channel (Liu et al. 2017).

    A group without batch norm, or without scales in it, falls back to `l2`.
    """
    state = tensors(evidence.model)
    norms = [name for name, m in evidence.model.named_modules() if isinstance(m, _BatchNorm)]
    scales = {f"{name}.weight".removeprefix(".") for name in norms}
    found = [
        slices(state[member.tensor].detach().double().abs(), member).sum(1)
        for member in group.members
        if member.tensor in scales
    ]
    return levelled(found) if found else l2(evidence, group)


def random(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """A random nested order, the same for the same seed."""
    rng = np.random.default_rng([evidence.seed, *group.name.encode()])
    return rng.random(group.size)


def _weight_norm(evidence: Evidence, group: ChannelGroup, power: int) -> FloatArray:
    """Mean over the weights of the group of their norms per channel, each weight scaled alike."""
    state, score = tensors(evidence.model), np.zeros(group.size)
    weights = {layer.weight for layer in evidence.graph.layers}
    for member in group.members:
        if member.tensor in weights:
            rows = slices(state[member.tensor].detach().double(), member)
            norm: FloatArray = rows.norm(p=power, dim=1).cpu().numpy()
            score += norm / max(float(norm.mean()), np.finfo(float).tiny)
    return score
