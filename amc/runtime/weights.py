"""Weights of a network as bytes: safetensors, which hold no code."""

import hashlib
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from amc.runtime.errors import AmcError
from amc.runtime.user_code import one_line


def to_bytes(model: nn.Module) -> bytes:
    """The network's state dict as a safetensors file; tied tensors are written once per name."""
    return save({k: v.detach().cpu().clone() for k, v in model.state_dict().items()})


def digest(model: nn.Module) -> str:
    """Fingerprint of the weights."""
    return hashlib.sha256(to_bytes(model)).hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        AmcError: the file is missing or corrupt.
    """
    if not path.is_file():
        raise AmcError(f"{path}: no such file")
    try:
        return load_file(path)
    except Exception as error:  # of safetensors, and of types that this torch does not know
        raise AmcError(f"{path}: corrupt or unreadable: {one_line(error)}") from None
