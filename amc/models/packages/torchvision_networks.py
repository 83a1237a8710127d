"""Networks of torchvision."""

import difflib
from typing import Any

from torch import nn

from amc.data.arrays.preprocessing import Preprocessing, Resampling
from amc.models.packages.facts import Facts
from amc.runtime.errors import AmcError
from amc.runtime.user_code import package_code

ADVICE = "; without network: --checkpoint FILE gives weights of your own"


def facts(name: str) -> Facts:
    """What torchvision says of the weights of a network.

    Args:
        name: ``resnet50`` for the weights that it takes for the best, or with others of its own:
            ``resnet50?weights=IMAGENET1K_V1``.

    Raises:
        AmcError: there is no such network, or no such weights.
    """
    weights = _weights(name)
    if weights is None:
        return Facts()
    shown, known = weights.transforms(), ("crop_size", "resize_size", "mean", "std")
    preprocessing = None
    if all(hasattr(shown, one) for one in known):
        (side,), (resized,) = shown.crop_size, shown.resize_size
        preprocessing = Preprocessing(
            side,
            side / resized,
            mean=tuple(shown.mean),
            std=tuple(shown.std),
            resampling=getattr(Resampling, shown.interpolation.name),
            source=f"torchvision:{name.partition('?')[0]}",
        )
    categories = weights.meta.get("categories") or ()
    return Facts(3, len(categories), f"of torchvision, {weights}", preprocessing)


def build(name: str, *, num_classes: int, in_channels: int, weights: bool) -> nn.Module:
    """A network, with torchvision's weights or with random ones.

    Raises:
        AmcError: it cannot be built, or its weights cannot be had.
    """
    from torchvision import models

    plain, found = name.partition("?")[0], _weights(name)
    if in_channels != 3:
        raise AmcError(f"--model torchvision:{name} takes images of 3 channels, not {in_channels}")
    sizes: dict[str, Any] = {"num_classes": num_classes} if num_classes and not weights else {}
    if not weights and "weights_backbone" in _arguments(plain):
        sizes["weights_backbone"] = None  # detectors would fetch them
    with package_code(f"--model torchvision:{name}", ADVICE if weights else ""):
        model: nn.Module = models.get_model(plain, weights=found if weights else None, **sizes)
    return model


def _arguments(name: str) -> set[str]:
    import inspect

    from torchvision import models

    return set(inspect.signature(models.get_model_builder(name)).parameters)


def _weights(name: str) -> Any:
    """A member of torchvision's enumeration of weights; None if it has none."""
    from torchvision import models

    plain, question, chosen = name.partition("?")
    if plain not in models.list_models():
        near = difflib.get_close_matches(plain, models.list_models(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise AmcError(f"--model torchvision:{name}: torchvision has no network {plain}{hint}")
    found = models.get_model_weights(plain)
    if not question:
        return getattr(found, "DEFAULT", None)
    word = chosen.removeprefix("weights=")
    if word not in found.__members__ or word == chosen:
        allowed = ", ".join(f"?weights={one}" for one in found.__members__)
        raise AmcError(f"--model torchvision:{name}: expected nothing after {plain} or {allowed}")
    return found[word]
