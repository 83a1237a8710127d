"""Drawn letters and digits in 62 classes: as large and as hard as one likes, with no download.

Each image is one character in one of 16 fonts, turned, scaled, moved, coloured, crossed by lines
and covered by noise. No network reads all of them: `0` and `O`, or `l`, `I` and `1`, are hardly
two shapes in some fonts; once scaled, `c` may be as large as `C` (so with s/S, v/V, w/W, x/X and
z/Z); and a line may cover what tells two characters apart. A ResNet-20 reads 95.7 % of val after
14 epochs and errs on just these pairs, so the ceiling is some 96 to 97 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from amc.data.augment import random_shift
from amc.data.cache import Bytes, cached_arrays
from amc.data.fonts import CHARACTERS, FONTS, MASK_SIDE, character_masks
from amc.data.loader import Batching, Data, Normalise, Split, from_tensors

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
