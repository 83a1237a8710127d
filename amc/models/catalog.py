"""From ``--model`` to a network."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from amc.data.arrays.preprocessing import Preprocessing
from amc.models.mobilenet import mobilenet_v1, mobilenet_v2
from amc.models.packages import PACKAGES, Facts
from amc.models.resnet import plain20, resnet20, resnet50, resnet56
from amc.models.vgg import vgg16
from amc.models.vit import vit
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
    "vit": vit,
}


def is_bundled(spec: str) -> bool:
    """Whether the network is one of ours, which can be trained here from nothing."""
    return spec in BUNDLED


def facts(spec: str) -> Facts | None:
    """What a network of another package says of itself, before it is built; None of others.

    Raises:
        AmcError: the package has no such network.
    """
    kind, colon, name = spec.partition(":")
    if not colon or kind not in PACKAGES:
        return None
    check_model(spec)
    return PACKAGES[kind].facts(name)


def expected(specs: Sequence[str]) -> Preprocessing | None:
    """How the images of several networks are made, where those say so.

    Raises:
        AmcError: two want different ones.
    """
    known = {spec: found.preprocessing for spec in specs if (found := facts(spec))}
    plain = {spec: replace(one, source="") for spec, one in known.items() if one}
    for spec, one in plain.items():
        if one != plain[first := next(iter(plain))]:
            raise AmcError(f"--model: {first} wants images {plain[first]}, but {spec} {one}")
    return next((one for one in known.values() if one), None)


def build(
    spec: str, *, num_classes: int, in_channels: int, width: float = 1.0, weights: bool = False
) -> nn.Module:
    """A network.

    Args:
        spec: the name of a bundled network; ``timm:name``, ``torchvision:name``, ``hf:name``;
            ``package.module:function`` or ``path/to/file.py:function``; the function gets those of
            the other arguments that its signature names, and returns the network.
        num_classes: outputs; 0 if the data does not tell, then the function has its own default.
        in_channels: channels of the images.
        width: factor on every number of channels.
        weights: with those that a network of another package comes with, which must be for as many
            classes; otherwise they are random.

    Raises:
        AmcError: unknown name, a head for other classes, or the function fails or returns
            something else.
    """
    check_model(spec)
    within("--width", width, 0, WIDEST)
    kind, colon, _ = spec.partition(":")
    if colon and kind in PACKAGES:
        return _packaged(spec, num_classes, in_channels, weights)
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


def _packaged(spec: str, num_classes: int, in_channels: int, weights: bool) -> nn.Module:
    """A network of another package; random weights are the same every time."""
    kind, _, name = spec.partition(":")
    found = PACKAGES[kind].facts(name)
    weights = weights and bool(found.weights)
    if weights and num_classes and found.classes not in (0, num_classes):
        raise AmcError(
            f"--model {spec} has {found.classes} outputs, the data have {num_classes} classes: "
            f"train it with a head of {num_classes} on them first, then give --checkpoint FILE"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PACKAGES[kind].build(
            name, num_classes=num_classes, in_channels=in_channels, weights=weights
        )
