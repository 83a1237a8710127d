"""Training reaches what was cut, whatever its owner has frozen."""

import contextlib
from collections.abc import Iterator

from torch import nn

from amc.graph.plan import Plan


@contextlib.contextmanager
def trainable(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Inside, all parameters that the plan has cut have ``requires_grad``; flags come back after.

    Where that leaves nothing to train, all parameters have it.
    """
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    wanted = {cut.tensor for cut in plan.cuts} & set(flags)
    if not wanted and not any(flags.values()):
        wanted = set(flags)
    try:
        for name, parameter in model.named_parameters():
            if name in wanted and parameter.is_floating_point():
                parameter.requires_grad_(True)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
