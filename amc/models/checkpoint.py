"""From ``--checkpoint`` to a network with weights; nothing but tensors is read."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amc.runtime import weights
from amc.runtime.errors import AmcError
from amc.runtime.user_code import one_line, user_code

UNDER = ("state_dict", "model")
"""Where files that hold more than a state dict have it."""

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and training frameworks put before every name."""

ADVICE = "save the network with torch.save(model.state_dict(), path) or as safetensors"


def load_checkpoint(model: nn.Module, path: Path) -> nn.Module:
    """Loads weights into the model, in place.

    Reads safetensors, and what ``torch.load(weights_only=True)`` accepts: a state dict, alone or
    under ``state_dict`` or ``model``. Nothing else in the file is executed.

    Raises:
        AmcError: missing or corrupt file, another architecture, or weights that are not finite.
    """
    own = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    state = _unwrapped(_tensors(_read(path), path), own)
    counters = {n: t for n, t in own.items() if n.endswith("num_batches_tracked")}
    state = {**counters, **state}  # which old files do not have
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        first = f"{missing[0]!r} is missing" if missing else f"{extra[0]!r} is unknown"
        raise AmcError(
            f"{path}: not a checkpoint of this network: {first} "
            f"({len(missing)} tensors missing, {len(extra)} unknown)"
        )
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            raise AmcError(
                f"{path}: not a checkpoint of this network: {name} has shape "
                f"{tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            )
        _check_values(state[name], tensor, f"{path}: {name}")
    with user_code(f"{path}: not a checkpoint of this network:"):
        model.load_state_dict(state)
    return model


def _check_values(given: Tensor, own: Tensor, where: str) -> None:
    """Refuses what is not the plain numbers that the network has there."""
    kind = (
        "sparse"
        if given.layout != torch.strided
        else "without values (on the meta device)"
        if given.is_meta
        else "quantised"
        if given.is_quantized
        else ""
    )
    if kind:
        raise AmcError(f"{where} is {kind}, expected a plain tensor; {ADVICE}")
    if (given.is_floating_point(), given.is_complex()) != (
        own.is_floating_point(),
        own.is_complex(),
    ):
        raise AmcError(f"{where} holds {_named(given.dtype)}, expected {_named(own.dtype)}")
    if not bool(torch.isfinite(given.to(own.dtype)).all()):
        raise AmcError(f"{where} holds NaN or infinity")


def _tensors(content: Any, path: Path) -> Mapping[str, Tensor]:
    """The content of a file as a state dict, if it is one."""
    for key in UNDER:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise AmcError(f"{path}: holds no state dict, but {type(content).__name__}; {ADVICE}")
    for name, value in content.items():
        if not isinstance(name, str):
            raise AmcError(
                f"{path}: holds no state dict: its keys must be names of tensors, got "
                f"{str(name)[:60]} ({type(name).__name__})"
            )
        if not isinstance(value, Tensor):
            raise AmcError(
                f"{path}: holds no state dict: {name!r} is {type(value).__name__}, expected a "
                f"tensor; {ADVICE}"
            )
    return content


def _unwrapped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the network's own names, where all are under a wrapper's."""
    for prefix in WRAPPERS:
        if state and state.keys() != own.keys() and all(n.startswith(prefix) for n in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _read(path: Path) -> Any:
    if not path.is_file():
        raise AmcError(f"--checkpoint {path}: no such file")
    if path.suffix == ".safetensors":
        return weights.read(path)
    try:
        with warnings.catch_warnings():  # of kinds of tensors that are refused below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise AmcError(f"{path}: corrupt or unreadable: {one_line(error)}") from None
    except Exception:  # torch.load raises many types, with advice on how to be unsafe
        raise AmcError(f"{path}: corrupt, or holds more than tensors; {ADVICE}") from None


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
