"""Masks of the zeros that a network has: they stay, whatever trains it (NNCF's const_sparsity)."""

from collections.abc import Mapping

from torch import Tensor

from amc.runtime.errors import AmcError


def constant(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks that let through what is not exactly zero.

    Args:
        weights: by name, as a checkpoint holds them.

    Returns:
        Name -> bool, of the weight's shape; True stays.

    Raises:
        AmcError: no weight is zero.
    """
    masks = {name: weight.detach() != 0 for name, weight in weights.items()}
    if all(bool(mask.all()) for mask in masks.values()):
        raise AmcError(
            f"const: none of the {len(masks)} weights has a zero to keep; give the checkpoint of "
            "a sparse network, or another metric"
        )
    return masks
