"""Networks of timm (PyTorch Image Models)."""

from typing import Any

from torch import nn

from amc.data.arrays.preprocessing import Preprocessing, Resampling
from amc.models.packages.facts import Facts
from amc.runtime.errors import AmcError
from amc.runtime.files import expanded, read_json
from amc.runtime.user_code import package_code

ADVICE = "; without network: --checkpoint FILE gives weights of your own"


def facts(name: str) -> Facts:
    """What timm's configuration of a network says.

    Args:
        name: as `timm.create_model` takes it: ``resnet18``, ``resnet18.a1_in1k``,
            ``hf-hub:org/name``, ``local-dir:/path``.

    Raises:
        AmcError: there is none of that name, or its configuration cannot be had.
    """
    config = _config(name)
    data = _data_config(config)
    channels, height, width = data["input_size"]
    source = f"timm:{name}"
    mean, std = tuple(data["mean"]), tuple(data["std"])
    known = channels in (1, 3) and len(mean) == len(std) == channels and height == width
    shown = Preprocessing(
        height,
        data["crop_pct"],
        data["crop_mode"] == "squash",
        mean,
        std,
        getattr(Resampling, str(data["interpolation"]).upper()),
        labels=tuple(config.get("label_names") or ()),
        source=source,
    )
    place = config.get("hf_hub_id") or config.get("file") or config.get("url") or ""
    return Facts(
        channels,
        int(config.get("num_classes") or 0),
        f"of timm, {place}" if place else "",
        shown if known else None,
        "" if known else f"images of {channels}x{height}x{width} must come from a function",
    )


def build(name: str, *, num_classes: int, in_channels: int, weights: bool) -> nn.Module:
    """A network, with the weights that timm has for it or with random ones.

    Raises:
        AmcError: it cannot be built, or its weights cannot be had.
    """
    import timm

    sizes = {"num_classes": num_classes} if num_classes and not weights else {}
    with package_code(f"--model timm:{name}", ADVICE if weights else ""):
        model: nn.Module = timm.create_model(
            name, pretrained=weights, in_chans=in_channels, **sizes
        )
    return model


def _config(name: str) -> dict[str, Any]:
    """The `PretrainedCfg` of timm, as a dictionary."""
    import timm
    from timm import models

    source, place = models.parse_model_name(name)
    with package_code(f"--model timm:{name}", ADVICE):
        if source == "hf-hub":
            return dict(models.load_model_config_from_hf(place)[0])
        if source == "local-dir":
            config = read_json(expanded(place) / "config.json")
            own = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
            return {**config.get("pretrained_cfg", config), **own, "file": place}
        if not timm.is_model(place):
            near = timm.list_models(f"*{place.split('.')[0]}*")[:3]
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise AmcError(
                f"--model timm:{name}: timm has no such network (timm.list_models()){hint}"
            )
        found = models.get_pretrained_cfg(place)
        return dict(found.to_dict()) if found else {}


def _data_config(config: dict[str, Any]) -> dict[str, Any]:
    from timm.data import resolve_data_config

    return dict(resolve_data_config(pretrained_cfg=config))
