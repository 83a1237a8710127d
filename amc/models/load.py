"""From ``--model`` and ``--checkpoint`` to a network with weights."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from amc import weights
from amc.errors import AmcError
from amc.imports import load_function, one_line
from amc.limits import WIDEST, within
from amc.models.bottleneck import resnet50
from amc.models.mobilenet import mobilenet_v1, mobilenet_v2
from amc.models.resnet import plain20, resnet20, resnet56
from amc.models.vgg import vgg16
from amc.names import check_model

BUNDLED: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "resnet56": resnet56,
    "resnet50": resnet50,
    "plain20": plain20,
    "vgg16": vgg16,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
}


def is_bundled(spec: str) -> bool:
    """Whether the network is one of ours, which can be trained here from nothing."""
    return spec in BUNDLED


def build(spec: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> nn.Module:
    """A network.

    Args:
        spec: the name of a bundled network, ``package.module:function`` or
            ``path/to/file.py:function``; the function gets those of the other arguments that its
            signature names, and returns the network.
        num_classes: outputs; 0 if the data does not tell, then the function has its own default.
        in_channels: channels of the images.
        width: factor on every number of channels.

    Raises:
        AmcError: unknown name, or the function fails or returns something else.
    """
    check_model(spec)
    within("--width", width, 0, WIDEST)
    function = BUNDLED.get(spec) or load_function(spec)
    given = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
    try:
        accepted = inspect.signature(function).parameters
        model = function(**{k: v for k, v in given.items() if k in accepted and v})
    except Exception as error:  # the user's code may fail in any way
        raise AmcError(f"--model {spec}: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise AmcError(f"--model {spec}: expected a torch.nn.Module, got {type(model).__name__}")
    return model


def load_checkpoint(model: nn.Module, path: Path) -> nn.Module:
    """Loads weights into the model, in place.

    Reads safetensors, and what ``torch.load(weights_only=True)`` accepts: a state dict, alone or
    under ``state_dict`` or ``model``. Nothing else in the file is executed.

    Raises:
        AmcError: missing or corrupt file, another architecture, or weights that are not finite.
    """
    state = _read(path)
    state = {k.removeprefix("module."): v for k, v in state.items()}
    own = model.state_dict()
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
        if not bool(torch.isfinite(state[name]).all()):
            raise AmcError(f"{path}: {name} holds NaN or infinity")
    model.load_state_dict(state)
    return model


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise AmcError(f"--checkpoint {path}: no such file")
    if path.suffix == ".safetensors":
        return weights.read(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise AmcError(f"{path}: corrupt or unreadable: {one_line(error)}") from None
    except Exception:  # torch.load raises many types, with advice on how to be unsafe
        raise AmcError(
            f"{path}: corrupt, or holds more than tensors; save the network with "
            "torch.save(model.state_dict(), path) or as safetensors"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not (isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values())):
        raise AmcError(f"{path}: holds no state dict, but {type(content).__name__}")
    return content
