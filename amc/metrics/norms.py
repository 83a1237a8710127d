"""Weight norms and chance: metrics that need no data."""

import numpy as np
import torch
from torch import Tensor

from amc.graph.arrays import FloatArray
from amc.graph.groups import ChannelGroup, Member
from amc.graph.shrink import tensors
from amc.metrics.metric import Evidence


def l1(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest sum of absolute weights, over all layers that write or read the channel."""
    return _weight_norm(evidence, group, 1)


def l2(evidence: Evidence, group: ChannelGroup) -> FloatArray:
    """Largest Euclidean norm, over all layers that write or read the channel."""
    return _weight_norm(evidence, group, 2)


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
            norm = _slice_norms(state[member.tensor], member, power)
            score += norm / max(float(norm.mean()), np.finfo(float).tiny)
    return score


def _slice_norms(weight: Tensor, member: Member, power: int) -> FloatArray:
    slices = weight.detach().double().movedim(member.dim, 0).flatten(1)
    picked = slices[torch.from_numpy(member.index).to(slices.device)].flatten(1)  # [C, m * rest]
    norms: FloatArray = picked.norm(p=power, dim=1).cpu().numpy()
    return norms
