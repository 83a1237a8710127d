"""Is the network that a file makes the network that it was written from?"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.exporters.words.unwritable import Unwritable
from amc.graph.capture.export import Inputs, describe
from amc.runtime.user_code import one_line

ROUNDING = 1e-5
"""Difference of outputs, as part of the largest, that may come of sums in another order."""

BATCHES = (1, 3)


def network_of(text: str, name: str, like: nn.Module) -> nn.Module:
    """The network that a file makes, with the weights of another one, in eval mode.

    Args:
        text: of the file; it is run in a namespace of its own.
        name: of the network's class.
        like: the network with the weights, on the CPU.

    Raises:
        Unwritable: it does not run, or the weights do not fit.
    """
    namespace: dict[str, Any] = {"__name__": "pruned"}
    try:
        exec(compile(text, "pruned.py", "exec"), namespace)
        made: nn.Module = namespace[name]()
        made.load_state_dict(like.state_dict())
    except Exception as error:  # text made of somebody's network may fail in any way
        raise Unwritable(f"the written file does not run: {one_line(error)[:200]}") from error
    return made.eval()


def batches(network: nn.Module, inputs: Inputs) -> list[Inputs]:
    """The same samples in batches of other sizes, where the network runs on them."""
    found = []
    for count in BATCHES:
        changed = _changed(inputs, lambda x, n=count: _rows(x, n))
        with contextlib.suppress(Exception):  # somebody's network may refuse a batch of one
            changed.run(network)
            found.append(changed)
    return found


def resized(inputs: Inputs, sizes: Sequence[Mapping[int, int]]) -> Inputs:
    """One sample of other image sizes.

    Args:
        inputs: an execution.
        sizes: of every tensor among them: dimension -> size.
    """
    following = iter(sizes)
    return _changed(_changed(inputs, lambda x: _rows(x, 1)), lambda x: _sized(x, next(following)))


def difference(made: nn.Module, network: nn.Module, trials: Sequence[Inputs]) -> float:
    """The largest difference of outputs, as part of the largest output.

    Args:
        made: what the file makes.
        network: what it was made from; it runs on all of the trials.
        trials: inputs of executions.

    Raises:
        Unwritable: a difference is larger than rounding, or what the file makes does not run.
    """
    worst = 0.0
    for inputs in trials:
        wanted = tree_leaves(inputs.run(network))
        try:
            found = tree_leaves(replace(inputs, outputs=None).run(made))
        except Exception as error:  # as above
            raise Unwritable(f"the written network does not run: {describe(error)}") from error
        if len(found) != len(wanted):
            raise Unwritable("the written network returns something else")
        for a, b in zip(found, wanted, strict=True):
            worst = max(worst, _apart(a, b))
    return worst


def _apart(a: Any, b: Any) -> float:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        if type(a) is type(b) and a == b:
            return 0.0
        raise Unwritable("the written network returns something else")
    if a.shape != b.shape or a.dtype != b.dtype:
        raise Unwritable("outputs of the written network have another shape or type")
    if a.equal(b):
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        raise Unwritable("outputs of the written network differ")
    a, b = (torch.view_as_real(x) if x.is_complex() else x for x in (a, b))
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    largest = b[b.isfinite()].abs().max() if b.isfinite().any() else b.new_zeros(())
    apart = (a - b)[~same].abs().max().item() if not same.all() else 0.0
    part = apart / largest.item() if largest > 0 else apart
    if not part <= ROUNDING:
        raise Unwritable(f"outputs of the written network differ by {part:.2g} of the largest")
    return float(part)


def _changed(inputs: Inputs, change: Any) -> Inputs:
    return inputs.changed(change)


def _rows(tensor: Tensor, count: int) -> Tensor:
    if not tensor.ndim or not len(tensor):
        return tensor
    return tensor[torch.arange(count) % len(tensor)]


def _sized(tensor: Tensor, sizes: Mapping[int, int]) -> Tensor:
    if not sizes:
        return tensor
    wanted = [sizes.get(dim, size) for dim, size in enumerate(tensor.shape)][2:]
    return F.interpolate(tensor.double(), wanted).to(tensor.dtype)
