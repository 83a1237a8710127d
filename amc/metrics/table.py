"""The metrics by name, and those of the user's own."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor, nn

from amc.graph.arrays import FloatArray, IntArray
from amc.graph.groups import ChannelGroup
from amc.graph.shrink import tensors
from amc.metrics.activations import activation_mean, apoz
from amc.metrics.geometric_median import geometric_median
from amc.metrics.lasso import lasso
from amc.metrics.metric import Evidence, Metric, Selection
from amc.metrics.movement import movement
from amc.metrics.norms import bn_scale, l1, l2, random
from amc.metrics.obs import obs
from amc.metrics.taylor import fisher, gradient, taylor, taylor_signed
from amc.runtime.errors import AmcError
from amc.runtime.names import check_name
from amc.runtime.user_code import load_function, user_code

METRICS: dict[str, Metric] = {
    "lasso": lasso,
    "obs": obs,
    "l1": l1,
    "l2": l2,
    "geometric_median": geometric_median,
    "bn_scale": bn_scale,
    "activation_mean": activation_mean,
    "apoz": apoz,
    "gradient": gradient,
    "taylor": taylor,
    "taylor_signed": taylor_signed,
    "fisher": fisher,
    "movement": movement,
    "random": random,
}

IN_UNITS_OF_LOSS = frozenset({"taylor", "taylor_signed", "fisher"})
"""Metrics whose scores estimate by how much the loss changes without the channel: they can be
compared across groups and added up. Those of all others mean something within a group only."""


def load_metric(name: str) -> Metric:
    """The metric that ``--metric`` names: one of `METRICS`, or ``module:function``.

    Raises:
        AmcError: there is no such metric, or no such function.
    """
    if name in METRICS:
        return METRICS[name]
    check_name("metric", name)
    return users_metric(f"--metric {name}", load_function(name))


def users_metric(where: str, function: Callable[[Evidence, ChannelGroup], Any]) -> Metric:
    """A metric of the user's own; whatever goes wrong in it is one line.

    Args:
        where: what a mistake is said of.
        function: of (evidence, group); returns a score per channel, higher stays, as an array or
            a tensor, or a function: number of channels -> the kept ones, increasing.
    """

    def metric(evidence: Evidence, group: ChannelGroup) -> Selection | FloatArray:
        said, before = f"{where}: {group.name}:", _versions(evidence.model)
        with user_code(said):
            found = function(evidence, group)
        if _versions(evidence.model) != before:
            raise AmcError(
                f"{said} it has changed the network; let it work on copy.deepcopy(evidence.model)"
            )
        if callable(found) and not isinstance(found, Tensor):
            return lambda count: _selected(found, count, group.size, said)
        return _scored(found, group.size, said)

    return metric


def _versions(model: nn.Module) -> list[Any]:
    """What is another one once weights were written, or modules put into another mode."""
    return [
        *((name, tensor.data_ptr(), tensor._version) for name, tensor in tensors(model).items()),
        *((name, module.training) for name, module in model.named_modules()),
    ]


def _scored(found: Any, size: int, said: str) -> FloatArray:
    """Scores as an array, if that is what they are."""
    form = type(found).__name__
    if isinstance(found, Tensor):
        form = f"{found.dtype} {list(found.shape)}"
        if found.is_floating_point() and not found.is_meta:  # NumPy has no bfloat16
            found = found.double()
        with suppress(NotImplementedError, TypeError, RuntimeError):  # meta, sparse, quantised
            found = found.detach().cpu().numpy()
    if isinstance(found, np.ndarray):
        form = f"{found.dtype} {list(found.shape)}"
        if found.shape == (size,) and found.dtype.kind in "fiu":
            if np.isfinite(found).all():
                return found.astype(np.float64)
            form = "scores that are not finite"
    raise AmcError(f"{said} must return an array of {size} numbers or a selection, got {form}")


def _selected(select: Callable[[int], Any], count: int, size: int, said: str) -> IntArray:
    """The channels that a selection of the user's own keeps, if they are as many as asked for."""
    with user_code(said):
        kept = np.asarray(select(count))
    right = kept.shape == (count,) and kept.dtype.kind in "iu"
    if right and count:
        right = 0 <= kept[0] and kept[-1] < size and bool((np.diff(kept) > 0).all())
    if not right:
        raise AmcError(
            f"{said} its selection must return {count} different channels below {size}, "
            f"increasing, got {kept.tolist()!s:.60}"
        )
    return kept.astype(np.int64)
