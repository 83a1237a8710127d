"""From ``--model`` to a network."""

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from amc.models.mobilenet import mobilenet_v1, mobilenet_v2
from amc.models.resnet import plain20, resnet20, resnet50, resnet56
from amc.models.vgg import vgg16
from amc.runtime.errors import AmcError
from amc.runtime.limits import WIDEST, within
from amc.runtime.names import check_model
from amc.runtime.user_code import load_function, user_code

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
    with user_code(f"--model {spec}:"):
        accepted = inspect.signature(function).parameters
        model = function(**{k: v for k, v in given.items() if k in accepted and v})
    if not isinstance(model, nn.Module):
        raise AmcError(f"--model {spec}: expected a torch.nn.Module, got {type(model).__name__}")
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_meta:
            raise AmcError(f"--model {spec}: {name} has no values (it is on the meta device)")
    return model
