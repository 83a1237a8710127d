"""Masks that are given: by the zeros that a network has (NNCF's const_sparsity), or by a file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from amc.runtime import weights
from amc.runtime.errors import AmcError
from amc.runtime.files import write_atomically
from amc.sparsity.masks import Mask


def constant(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks that let through what is not exactly zero.

    Args:
        held: weights by name, as a checkpoint holds them.

    Returns:
        Name -> bool, of the weight's shape; True stays.

    Raises:
        AmcError: no weight is zero.
    """
    masks = {name: weight.detach() != 0 for name, weight in held.items()}
    if all(bool(mask.all()) for mask in masks.values()):
        raise AmcError(
            f"const: none of the {len(masks)} weights has a zero to keep; give the checkpoint of "
            "a sparse network, or another metric"
        )
    return masks


def save_masks(path: Path, masks: Mapping[str, Tensor | Mask]) -> None:
    """Writes masks as a safetensors file of bool tensors by the names of the weights."""
    kept = {k: m.current() if isinstance(m, Mask) else m for k, m in masks.items()}
    write_atomically(path, save({k: m.detach().cpu().contiguous() for k, m in kept.items()}))


def read_masks(path: Path | str) -> dict[str, Tensor]:
    """What `save_masks` wrote, on the CPU.

    Raises:
        AmcError: the file is missing, corrupt, or holds something else.
    """
    masks = weights.read(Path(path))
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise AmcError(f"{path}: {name} must be bool, got {mask.dtype}")
    return masks
