"""Drawn letters and digits in 62 classes: as large and as hard as one likes, with no download.

Each image is one character in one of 16 fonts, turned, scaled, moved, coloured, crossed by lines
and covered by noise. No network reads all of them: `0` and `O`, or `l`, `I` and `1`, are hardly
two shapes in some fonts; once scaled, `c` may be as large as `C` (so with s/S, v/V, w/W, x/X and
z/Z); and a line may cover what tells two characters apart. A ResNet-20 reads 95.7 % of val after
14 epochs and errs on just these pairs, so the ceiling is some 96 to 97 %.
"""

from __future__ import annotations

import hashlib
import io
import string
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from amc.data.arrays.augment import random_shift
from amc.data.arrays.preprocessing import Normalise
from amc.data.loader import Batching, Data, Split, from_tensors
from amc.runtime.errors import AmcError
from amc.runtime.files import cache_dir, write_atomically

Floats = NDArray[np.float32]

SIZES = {"train": 12_400, "val": 3_100, "test": 6_200}  # 200, 50 and 100 of each class
NORMALISE: Normalise = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SIDE = 32  # pixels of an image


@dataclass(frozen=True)
class Recipe:
    """How far each property of an image may vary; lengths in pixels, colours in [0, 1]."""

    version: int = 1  # of the drawing code: one more whenever the same numbers draw other images
    seed: int = 0
    angle: float = 25.0  # degrees, either way
    scale: float = 0.2  # from 1 - scale to 1 + scale
    shift: float = 3.0
    contrast: tuple[float, float] = (0.25, 0.8)  # between the brightness of character and ground
    tint: float = 0.2  # of each colour channel around its brightness
    lines: int = 2
    line_width: tuple[float, float] = (0.6, 1.6)
    noise: tuple[float, float] = (0.02, 0.12)  # standard deviation


def load_glyphs(batching: Batching) -> Data:
    """The 21,700 images of the default recipe, drawn on first use and then read from the cache."""
    splits = {
        name: Split(torch.from_numpy(images), torch.from_numpy(glyph_labels(len(images))))
        for name, images in glyph_images().items()
    }
    return from_tensors(
        "glyphs",
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        num_classes=len(CHARACTERS),
        augment=random_shift(2),
        normalise=NORMALISE,
        batching=batching,
    )


def glyph_labels(count: int) -> NDArray[np.int64]:
    """The classes of `count` images: 0 to 61 over and over, so that every stretch is balanced."""
    return np.arange(count, dtype=np.int64) % len(CHARACTERS)


def glyph_images(
    sizes: Mapping[str, int] = SIZES, recipe: Recipe | None = None
) -> dict[str, Bytes]:
    """The images of each split, [size, 3, 32, 32] uint8, from the cache if they are there.

    Args:
        sizes: How many images each split has.
        recipe: What to draw; the default one if None. Each split draws from its own random stream.
    """
    recipe = recipe or Recipe()
    # The font renderer belongs to the recipe: another version of it shades edges differently.
    facts = f"{recipe} {dict(sizes)}".encode() + character_masks().tobytes()
    name = f"glyphs-{hashlib.sha256(facts).hexdigest()[:16]}"
    shapes = {split: (size, 3, SIDE, SIDE) for split, size in sizes.items()}

    def make() -> dict[str, Bytes]:
        return {
            split: draw_glyphs(size, recipe, np.random.default_rng((recipe.seed, stream)))
            for stream, (split, size) in enumerate(sizes.items())
        }

    return cached_arrays(name, shapes, make)


def draw_glyphs(count: int, recipe: Recipe, random: np.random.Generator) -> Bytes:
    """Draw `count` images, [count, 3, 32, 32] uint8, whose classes are `glyph_labels(count)`."""
    labels = glyph_labels(count)
    images = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for start in range(0, count, 500):  # in parts, to need little memory
        part = slice(start, start + 500)
        images[part] = _draw(labels[part], recipe, random)
    return images


def _draw(labels: NDArray[np.int64], recipe: Recipe, random: np.random.Generator) -> Bytes:
    """One image for each label, [B, 3, 32, 32] uint8."""
    batch = len(labels)
    masks = character_masks()[random.integers(len(FONTS), size=batch), labels]
    ground, ink = _colours(batch, recipe, random)
    images = _blend(ground, ink, _place(masks, recipe, random))
    for _ in range(recipe.lines):
        colour, _ = _colours(batch, recipe, random)
        images = _blend(images, colour, _line(batch, recipe, random))
    deviation = random.uniform(*recipe.noise, (batch, 1, 1, 1)).astype(np.float32)
    images += deviation * random.standard_normal(images.shape, np.float32)
    pixels: Bytes = np.rint(255 * images.clip(0, 1)).astype(np.uint8)
    return pixels


def _blend(under: Floats, over: Floats, cover: Floats) -> Floats:
    """Paint `over` on `under`, colours [B, 3, 1 or H, 1 or W], where `cover` [B, H, W] is 1."""
    return under + (over - under) * cover[:, None]


def _colours(batch: int, recipe: Recipe, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Two colours per image, each [B, 3, 1, 1], as far apart in brightness as the recipe asks."""
    gap = random.uniform(*recipe.contrast, batch)
    dark = random.uniform(0, 1 - gap)
    brightness = np.stack([dark, dark + gap])
    swapped = random.random(batch) < 0.5
    brightness[:, swapped] = brightness[::-1, swapped]
    tint = random.uniform(-recipe.tint, recipe.tint, (2, batch, 3))
    tint -= tint.mean(axis=2, keepdims=True)  # it changes the hue, not the brightness
    first, second = (brightness[:, :, None] + tint).clip(0, 1).astype(np.float32)
    return first[:, :, None, None], second[:, :, None, None]


def _place(masks: Floats, recipe: Recipe, random: np.random.Generator) -> Floats:
    """Turn, scale and move each mask [B, 48, 48] by random amounts; [B, 32, 32], bilinear."""
    batch = len(masks)
    angle = np.radians(random.uniform(-recipe.angle, recipe.angle, (batch, 1, 1)))
    scale = random.uniform(1 - recipe.scale, 1 + recipe.scale, (batch, 1, 1))
    across, down = random.uniform(-recipe.shift, recipe.shift, (2, batch, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    x, y = x - across, y - down

    # Where in the mask each pixel of the image comes from; outside, the mask's blank border.
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    last = MASK_SIDE - 1.001
    columns = (cosine * x + sine * y + (MASK_SIDE - 1) / 2).clip(0, last)
    rows = (cosine * y - sine * x + (MASK_SIDE - 1) / 2).clip(0, last)
    left, top = columns.astype(np.int64), rows.astype(np.int64)
    right_part, low_part = (columns - left).astype(np.float32), (rows - top).astype(np.float32)

    flat = masks.reshape(-1)
    corner = (np.arange(batch)[:, None, None] * MASK_SIDE + top) * MASK_SIDE + left
    upper = flat[corner] * (1 - right_part) + flat[corner + 1] * right_part
    corner += MASK_SIDE
    lower = flat[corner] * (1 - right_part) + flat[corner + 1] * right_part
    placed: Floats = upper * (1 - low_part) + lower * low_part
    return placed


def _line(batch: int, recipe: Recipe, random: np.random.Generator) -> Floats:
    """How much of each pixel a random straight line covers, [B, 32, 32]."""
    angle = random.uniform(0, np.pi, (batch, 1, 1))
    across, down = random.uniform(0, SIDE, (2, batch, 1, 1))
    width = random.uniform(*recipe.line_width, (batch, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    distance = np.abs((x - across) * np.sin(angle) - (y - down) * np.cos(angle))
    cover: Floats = (width / 2 + 0.5 - distance).clip(0, 1).astype(np.float32)
    return cover


CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
MASK_SIDE = 48  # pixels; room around the largest character, so that a mask's border is blank
CAP_HEIGHT = 16  # pixels of an `H`, in every font

# All come inside the matplotlib package, so the images do not depend on the system's fonts.
FONTS = [
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
]


@cache
def character_masks() -> NDArray[np.float32]:
    """Every character in every font, [fonts, 62, 48, 48] in [0, 1], standing on one base line."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    masks = np.empty((len(FONTS), len(CHARACTERS), MASK_SIDE, MASK_SIDE), np.float32)
    for i, name in enumerate(FONTS):
        font = _font(folder / f"{name}.ttf")
        for j, character in enumerate(CHARACTERS):
            image = Image.new("L", (MASK_SIDE, MASK_SIDE))
            base = (MASK_SIDE / 2, (MASK_SIDE + CAP_HEIGHT) / 2)
            ImageDraw.Draw(image).text(base, character, fill=255, font=font, anchor="ms")
            masks[i, j] = np.asarray(image, np.float32) / 255
    masks.flags.writeable = False  # every caller gets this one array
    return masks


def _font(path: Path) -> ImageFont.FreeTypeFont:
    """The font at the size whose capitals are CAP_HEIGHT pixels high."""
    # The basic layout engine is part of every Pillow; the other one is not.
    basic = ImageFont.Layout.BASIC
    _, top, _, _ = ImageFont.truetype(path, 1000, layout_engine=basic).getbbox("H", anchor="ls")
    return ImageFont.truetype(path, round(-1000 * CAP_HEIGHT / top), layout_engine=basic)


Bytes = NDArray[np.uint8]


def cached_arrays(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[], dict[str, Bytes]],
) -> dict[str, Bytes]:
    """Read uint8 arrays from the cache, or make them and try to keep them there.

    Args:
        name: The file's name without its suffix; it must change whenever what `make` returns does.
        shapes: The arrays' names and shapes; a file with anything else counts as missing.
        make: Makes the arrays when the cache does not hold them.

    Returns:
        The arrays by name, the same whether they were read or made.
    """
    path = cache_dir() / f"{name}.npz"
    # A damaged zip can raise almost anything; whatever it is, the arrays are simply made again.
    with suppress(Exception):
        return _read(path, shapes)
    arrays = make()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    with suppress(AmcError):  # a full or read-only disk costs time on the next run, nothing else
        write_atomically(path, buffer.getvalue())
    return arrays


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Bytes]:
    """The arrays in `path`; raises when they are not exactly those of `shapes`."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    found = {key: array.shape for key, array in arrays.items() if array.dtype == np.uint8}
    if found != dict(shapes):
        raise ValueError(f"{path}: holds {found}, expected {dict(shapes)}")
    return arrays
