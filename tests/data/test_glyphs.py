"""Characters of bundled fonts, drawn anew, and their cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from amc.data import load_data
from amc.data.glyphs import (
    CHARACTERS,
    FONTS,
    Recipe,
    cached_arrays,
    character_masks,
    draw_glyphs,
    glyph_images,
    glyph_labels,
)
from amc.runtime.files import cache_dir
from data_streams import Payload, everything, rows


def draw(count, seed=0, **changes):
    return draw_glyphs(count, Recipe(**changes), np.random.default_rng(seed))


def test_glyphs_in_four_streams():
    data = load_data("glyphs")
    assert (data.name, data.num_classes, data.input_shape) == ("glyphs", 62, (3, 32, 32))
    for name, each in (("train", 200), ("calibration", 200), ("val", 50), ("test", 100)):
        labels = everything(getattr(data, name))[1]
        assert labels.bincount().tolist() == [each] * 62
    val, test = everything(data.val)[0], everything(data.test)[0]
    assert len(set(rows(val) + rows(test))) == 9300
    assert abs(float(test.mean())) < 0.1 and 0.8 < float(test.std()) < 1.3


def test_glyphs_repeat_bit_for_bit():
    assert np.array_equal(draw(620), draw(620))
    assert not np.array_equal(draw(620), draw(620, seed=1))
    assert np.array_equal(draw(600)[:500], draw(500)), "drawn in parts of 500"
    assert glyph_labels(124).tolist() == [*range(62), *range(62)]


def test_each_glyph_resembles_its_own_class_most():
    plain = dict(angle=0, scale=0, shift=0, contrast=(1, 1), tint=0, lines=0, noise=(0, 0))
    images = draw(62 * 20, **plain)[:, 0].astype(np.float32) / 255
    images = np.where(images[:, :1, :1] > 0.5, 1 - images, images)  # ink is 1 on either ground
    masks = character_masks()[:, :, 8:40, 8:40]
    for image, label in zip(images, glyph_labels(len(images)), strict=True):
        error = np.square(masks - image).mean(axis=(2, 3)).min(axis=0)  # of each class
        assert error[label] < 1e-4
    means = images.reshape(20, 62, -1).mean(axis=0)
    assert min(means.sum(axis=1)) > 15, "a class with hardly any ink"


def test_masks_are_the_characters_of_bundled_fonts():
    masks = character_masks()
    assert masks.shape[:2] == (len(FONTS), len(CHARACTERS)) == (16, 62)
    assert not masks[:, :, [0, -1]].any() and not masks[..., [0, -1]].any(), "a border not blank"
    tall = masks[:, CHARACTERS.index("H")].max(axis=2) > 0.5
    assert set(tall.sum(axis=1)) <= {15, 16, 17}
    for font in masks:
        assert len({mask.tobytes() for mask in font}) >= 61


def test_glyphs_come_back_from_the_cache_as_they_were_drawn(monkeypatch):
    sizes = {"train": 124, "val": 62}
    drawn = glyph_images(sizes)
    (file,) = cache_dir().iterdir()

    with monkeypatch.context() as patched:
        patched.setattr("amc.data.glyphs.draw_glyphs", None)  # drawing again would fail
        read = glyph_images(sizes)
    for name, size in sizes.items():
        assert read[name].shape == (size, 3, 32, 32)
        assert np.array_equal(read[name], drawn[name])
    assert not np.array_equal(drawn["train"][:62], drawn["val"])

    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for content in (b"", b"not a zip", whole[: len(whole) // 2], bytes(damaged)):
        file.write_bytes(content)
        again = glyph_images(sizes)
        assert all(np.array_equal(again[name], drawn[name]) for name in sizes)
        assert file.read_bytes() == whole
    glyph_images(sizes, Recipe(seed=1))
    assert len(list(cache_dir().iterdir())) == 2


def test_cache_that_cannot_be_used_is_done_without(tmp_path, monkeypatch):
    made = {"a": np.arange(3, dtype=np.uint8)}
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "file"))
    assert cached_arrays("x", {"a": (3,)}, lambda: made) is made

    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "kept"))
    (cache_dir() / "x.npz").mkdir(parents=True)  # os.replace fails at the last moment
    assert cached_arrays("x", {"a": (3,)}, lambda: made) is made
    assert [entry.name for entry in cache_dir().iterdir()] == ["x.npz"]


def test_cache_never_unpickles(tmp_path):
    mark = tmp_path / "executed"
    cache_dir().mkdir()
    np.savez(cache_dir() / "x.npz", a=np.array([Payload(mark)], dtype=object))
    made = {"a": np.zeros(1, np.uint8)}
    assert cached_arrays("x", {"a": (1,)}, lambda: made) is made
    assert not mark.exists()


def test_cache_dir(monkeypatch):
    monkeypatch.delenv("AMC_CACHE")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    assert cache_dir() == Path("/home/somebody/.cache/amc-pruning")
