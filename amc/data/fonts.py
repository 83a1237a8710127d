"""Letters and digits as masks, from fonts that are the same on every machine."""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

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
