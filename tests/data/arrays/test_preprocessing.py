"""What of a picture a network sees."""

import numpy as np
from PIL import Image

from amc.data.arrays.preprocessing import Preprocessing


def picture(height: int = 6, width: int = 10) -> Image.Image:
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(pixels)


def test_centre_is_a_square_or_all_of_it() -> None:
    assert Preprocessing().centre(10, 6) == (2, 0, 8, 6)
    assert Preprocessing(crop=0.5).centre(10, 6) == (3.5, 1.5, 6.5, 4.5)
    assert Preprocessing(crop=0.5, squash=True).centre(10, 6) == (0, 0, 10, 6)


def test_pixels_by_hand() -> None:
    image, given = picture(), np.asarray(picture())
    same = Preprocessing(6).pixels(image, (2, 0, 8, 6))
    assert np.array_equal(same, given[:, 2:8])
    turned = Preprocessing(6, blue_first=True).pixels(image, (2, 0, 8, 6))
    assert np.array_equal(turned, given[:, 2:8, ::-1])
    grey = Preprocessing(6, mean=(0.5,), std=(0.5,))
    assert grey.shape == (1, 6, 6) and grey.pixels(image, (2, 0, 8, 6)).shape == (6, 6, 1)


def test_outputs_are_found_by_name() -> None:
    shown = Preprocessing().named(("dog", "cat", "bird"))
    assert shown.outputs(("bird", "cat", "dog")).tolist() == [2, 1, 0]
    assert shown.outputs(("dog", "cat", "bird")).tolist() == [0, 1, 2]
    assert shown.outputs(("dog", "cat", "cow")).tolist() == [0, 1, 2]  # others: as they come
    assert Preprocessing().outputs(("b", "a")).tolist() == [0, 1]
