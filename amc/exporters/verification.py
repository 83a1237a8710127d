"""Whether what a file computes is what the network computes, for batches of several sizes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from amc.exporters.captured import batch_of
from amc.runtime import feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.runtime.user_code import one_line

TOLERANCE, COARSE = 1e-4, 2e-2
"""Largest error of a network with 32 bits or more, and of one with 16 bits."""

SMALL = 0.01
"""Outputs below count as this large: what is 0 in one runtime is 1e-8 in another."""

BATCHES = (1, 2, 5)
"""Samples of the batches that a file is tried with; one is the batch that it was traced with."""


class DifferentError(AmcError):
    """A file does not compute what the network computes."""


def verified(
    model: nn.Module, run: Callable[..., Any], sample: Feed, batches: Sequence[int] = BATCHES
) -> float:
    """The largest error over all outputs and batches, which is within the tolerance.

    Args:
        model: in eval mode on the CPU.
        run: called as the network is.
        sample: inputs; what it is tried with are these, and the same values in another order.
        batches: numbers of samples.

    Raises:
        DifferentError: it is not, or what is tried does not run.
    """
    worst, most = 0.0, tolerance(model)
    for size in batches:
        for given in (batch_of(sample, size), shuffled(batch_of(sample, size), size)):
            wanted = outputs(model, given)
            try:
                args, kwargs = feed.arguments(given)
                with torch.no_grad():
                    found = tensors(run(*args, **kwargs))
            except Exception as error:  # a runtime may refuse in any way
                raise DifferentError(
                    f"the file does not run with a batch of {size}: {one_line(error)[:300]}"
                ) from None
            worst = max(worst, difference(found, wanted))
            if not worst <= most:
                raise DifferentError(
                    f"with a batch of {size} the outputs of the file differ from PyTorch's by "
                    f"{worst:.2g} of the largest, {most:g} is allowed"
                )
    return worst


def tolerance(model: nn.Module) -> float:
    """How much the outputs may differ, as a part of the largest one or of `SMALL`."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return COARSE if kinds & {torch.float16, torch.bfloat16} else TOLERANCE


def outputs(model: nn.Module, given: Feed) -> list[Tensor]:
    """All tensors that the network puts out; it gets copies of its inputs."""
    copies: Feed = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, given)
    with torch.no_grad():
        return tensors(feed.call(model, copies))


def tensors(found: Any) -> list[Tensor]:
    """The tensors of any outputs."""
    return [x for x in tree_leaves(found) if isinstance(x, Tensor)]


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference of two numbers, as a part of the largest of their tensor.

    Or of `SMALL`, if that is larger.

    Infinite where shapes or numbers of tensors differ, and where one is not finite and the other
    is.
    """
    if [x.shape for x in found] != [x.shape for x in wanted]:
        return math.inf
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if not a.numel():
            continue
        a, b = a.cpu().double(), b.cpu().double()
        if not torch.equal(a.isfinite(), b.isfinite()):
            return math.inf
        a, b = a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0)
        worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp(min=SMALL)))
    return worst


def shuffled(sample: Feed, seed: int) -> Feed:
    """Inputs with the same values in another order; constant ones, which tell little, at random.

    Whole numbers stay: they may be positions or tokens.
    """
    generator = torch.Generator().manual_seed(seed)

    def other(x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 1):
            return x
        flat = x.reshape(-1)
        if bool((flat == flat[0]).all()):
            return torch.randn(x.shape, generator=generator).to(x.dtype)
        return flat[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)

    found: Feed = tree_map(other, sample)
    return found
