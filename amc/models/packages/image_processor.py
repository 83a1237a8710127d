"""What an image processor of Hugging Face's `transformers` does, in this project's words.

It is read off the processor's attributes, and proven on a picture: what it makes of that must be
what `Preprocessing` makes of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amc.data.arrays.preprocessing import Preprocessing, Resampling
from amc.runtime.errors import AmcError
from amc.runtime.names import is_path
from amc.runtime.user_code import package_code

FILES = ("preprocessor_config.json", "processor_config.json")
NEAR = 0.1
"""Deviations of a channel that the two may differ by on average: they round sizes differently."""


def preprocessing_of(
    where: str,
    revision: str | None,
    source: str,
    silent: Callable[[], AbstractContextManager[None]],
) -> tuple[Preprocessing | None, str]:
    """How the network's images are made, None if that cannot be told; and then why."""
    from transformers import AutoImageProcessor

    none = None, "no image processor: images as usual for ImageNet"
    try:
        with package_code(source), silent():
            if not _is_there(where, revision):  # transformers would take any of the same family
                return none
            processor = AutoImageProcessor.from_pretrained(
                where, revision=revision, trust_remote_code=False
            )
    except AmcError:
        return none
    unknown = f"its {type(processor).__name__} is not known here: images as usual for ImageNet"
    try:
        found = _read(processor, source)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None, unknown
    with package_code(f"{source}: its image processor fails"), silent():
        agrees = _agree(processor, found)
    return (found, "") if agrees else (None, unknown)


def _is_there(where: str, revision: str | None) -> bool:
    """Whether the network comes with one."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if is_path(where):
        return any((Path(where) / name).is_file() for name in FILES)
    for name in FILES:
        with contextlib.suppress(EntryNotFoundError):
            return bool(hf_hub_download(where, name, revision=revision))
    return False


def _read(processor: Any, source: str) -> Preprocessing:
    """From its attributes.

    Raises:
        KeyError: and others, where they are of another make.
    """
    side, crop, squash = _sizes(processor)
    factor = float(getattr(processor, "rescale_factor", None) or 1 / 255)
    factor = factor if getattr(processor, "do_rescale", True) else 1.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    normal = bool(getattr(processor, "do_normalize", False))
    means = _numbers(processor.image_mean) if normal else (0.0, 0.0, 0.0)
    stds = _numbers(processor.image_std) if normal else (1.0,) * len(means)
    if getattr(processor, "include_top", False):  # EfficientNet's divides twice
        stds = tuple(std * std for std in stds)
    return Preprocessing(
        side,
        crop,
        squash,
        tuple((offset + mean) / (255 * factor) for mean in means),
        tuple(std / (255 * factor) for std in stds),
        Resampling(int(processor.resample)),
        bool(getattr(processor, "do_flip_channel_order", False)),
        source=source,
    )


def _sizes(processor: Any) -> tuple[int, float, bool]:
    """Side, part of the shorter side, and whether all of the image is squeezed into it."""
    size = _sides(processor.size)
    part = getattr(processor, "crop_pct", None)
    cropped = getattr(processor, "do_center_crop", None)
    if "shortest_edge" not in size:
        if size["height"] != size["width"]:
            raise ValueError("not square")
        if not cropped:
            return int(size["height"]), 1.0, True
        raise ValueError("squeezed, then cropped")
    edge = int(size["shortest_edge"])
    if cropped is None and part is not None:  # ConvNext's
        return (edge, float(part), False) if edge < 384 else (edge, 1.0, True)
    if not cropped:
        raise ValueError("images of several sizes")
    crop = _sides(processor.crop_size)
    if crop["height"] != crop["width"]:
        raise ValueError("not square")
    side = int(crop["height"])
    if "Levit" in type(processor).__name__:
        edge = int(256 / 224 * edge)
    return side, float(part) if part is not None else side / edge, False


def _sides(size: Any) -> dict[str, int]:
    names = ("shortest_edge", "height", "width")
    found = {name: size[name] for name in names if name in size and size[name] is not None}
    return {name: int(value) for name, value in found.items()}


def _numbers(given: Any) -> tuple[float, ...]:
    return tuple(map(float, given)) if isinstance(given, list | tuple) else (float(given),) * 3


def _agree(processor: Any, found: Preprocessing) -> bool:
    """Whether the two make the same of a picture."""
    picture = Image.fromarray(_waves(300, 410))
    theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], np.float64)
    pixels = found.pixels(picture, found.centre(*picture.size)).transpose(2, 0, 1) / 255
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in found.normalise)
    ours = (pixels - mean) / std
    return bool(theirs.shape == ours.shape and np.abs(theirs - ours).mean() <= NEAR * ours.std())


def _waves(height: int, width: int) -> NDArray[np.uint8]:
    """A smooth picture whose colours and places differ."""
    down, across = np.mgrid[0:height, 0:width] / 40
    waves = np.stack([np.sin(down), np.cos(across), np.sin(down / 3 + across / 2)], 2)
    return (127.5 + 127 * waves).astype(np.uint8)
