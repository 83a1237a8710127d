"""Training reaches what was cut or masked, whatever its owner has frozen."""

import contextlib
from collections.abc import Iterator

from torch import nn

from amc.graph.plan import Plan


@contextlib.contextmanager
def trainable(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Inside, all parameters that were cut or masked have ``requires_grad``; then flags come back.

    Where that leaves nothing to train, all parameters have it.
    """
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    cut = {cut.tensor for cut in plan.cuts}
    wanted = {name for name in flags if name in cut or ".parametrizations." in f".{name}"}
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
