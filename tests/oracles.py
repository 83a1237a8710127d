"""Other people's answers to the questions that the tests ask."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc import Budget


def counting() -> FlopCounterMode:
    """PyTorch's counter, with attention that processors fuse, which it leaves out."""

    def fused(q: Any, k: Any, v: Any, *others: Any, **named: Any) -> int:
        scores, sums = q[1] * q[2] * k[2] * q[3], q[1] * q[2] * k[2] * v[3]
        return 2 * int(q[0]) * int(scores + sums)

    name = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={name: fused})


def coupled(graph: amc.ChannelGraph) -> set[frozenset[str]]:
    """Layers whose outputs go together."""
    weights = {layer.weight: layer.name for layer in graph.layers}
    found = {
        frozenset(weights[m.tensor] for m in g.members if m.dim == 0 and m.tensor in weights)
        for g in graph.groups
    }
    return found - {frozenset()}


def coupled_by_torch_pruning(model: nn.Module, x: Tensor) -> set[frozenset[str]]:
    """Layers whose outputs torch-pruning would cut together."""
    import torch_pruning as tp

    dependencies = tp.DependencyGraph().build_dependency(copy.deepcopy(model), x)
    names = {m: n for n, m in dependencies.model.named_modules()}
    found = set()
    for module in names:
        if isinstance(module, nn.Conv2d | nn.Linear):
            if isinstance(module, nn.Linear):
                cut = tp.prune_linear_out_channels
            elif module.groups == module.in_channels > 1:
                cut = tp.prune_depthwise_conv_out_channels
            else:
                cut = tp.prune_conv_out_channels
            found.add(
                frozenset(
                    names[dep.target.module]
                    for dep, _ in dependencies.get_pruning_group(module, cut, [0])
                    if isinstance(dep.target.module, nn.Conv2d | nn.Linear)
                    and dependencies.is_out_channel_pruning_fn(dep.handler)
                )
            )
    return found


def can_be_widened(budget: Budget, counts: np.ndarray) -> bool:
    """Whether any group fits one allowed step more."""
    for t, options in enumerate(budget.options):
        larger = options[options > counts[t]]
        if len(larger):
            trial = counts.copy()
            trial[t] = larger[0]
            if budget.graph.cost.macs(trial) <= budget.target:
                return True
    return False
