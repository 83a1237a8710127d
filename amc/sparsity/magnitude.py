"""Magnitude: the smallest weights become zero (Han et al. 2015)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """|w|, in 32 bits at least."""
    size = weight.detach().abs()
    return size.float() if size.itemsize < 4 else size


def normed_magnitude(weight: Tensor) -> Tensor:
    """|w| / ||W||_2 of the layer, NNCF's ``normed_abs``: layers of any scale compare.

    A layer of zeros has scores of 0.
    """
    size = magnitude(weight)
    length = torch.linalg.vector_norm(size)
    return size / torch.where(length > 0, length, 1)


MAGNITUDES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "magnitude": magnitude,
    "normed_magnitude": normed_magnitude,
}
"""Name of a metric -> scores of single weights, from the dense weight."""
