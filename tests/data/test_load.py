"""The data sets: what is in which stream, that it repeats exactly, and what bad input is told."""

from __future__ import annotations

import os
import pickle
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits as sklearn_digits
from torch.utils.data import DataLoader, TensorDataset

from amc.data import Data, Loader, TensorLoader, load_data, start_epoch
from amc.data.augment import both, random_flip, random_shift
from amc.data.cifar import load_cifar
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
from amc.data.images import NORMALISE
from amc.data.loader import Batching
from amc.data.split import stratified_order
from amc.runtime.errors import AmcError
from amc.runtime.files import cache_dir
from amc.runtime.user_code import load_function

STREAMS = ("train", "calibration", "val", "test")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The tensors are small: on a busy machine, more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "cache"))


def everything(loader):
    """All of a loader's images and labels, each in one tensor."""
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(first, second):
    """Whether two passes are equal bit for bit, batch for batch."""
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def rows(images):
    """Each image as bytes, to look images up in a set."""
    return [image.numpy().tobytes() for image in images]


def refused(call, *parts):
    """The one line `call` is refused with; it must contain every part."""
    with pytest.raises(AmcError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert str(part) in line, line
    return line


def check_streams(data: Data):
    """What holds for every data set."""
    for name in STREAMS:
        loader = getattr(data, name)
        assert isinstance(loader, Loader)
        batches = list(loader)
        assert len(batches) == len(loader)
        for images, labels in batches:
            assert images.dtype == torch.float32 and labels.dtype == torch.int64
            assert images.shape == (len(labels), *data.input_shape)
            assert images.is_contiguous() and bool(images.isfinite().all())
            assert 0 <= int(labels.min()) and int(labels.max()) < data.num_classes
        assert same(loader, batches), f"{name} changes within one epoch"
    train, calibration = everything(data.train)[1], everything(data.calibration)[1]
    assert torch.equal(train.bincount(), calibration.bincount())


# --- the order that splits are cut from -----------------------------------------------------


def test_every_stretch_of_the_order_is_stratified():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    order = stratified_order(labels)
    assert sorted(order) == list(range(1000))
    for start in range(0, 1000, 50):
        counts = np.bincount(labels[order[start : start + 50]], minlength=3)
        assert np.abs(counts - [30, 15, 5]).max() <= 1
    assert not np.array_equal(order, stratified_order(labels, seed=1))


def test_the_order_does_not_depend_on_the_numpy_version():
    order = stratified_order(np.arange(12) % 3)
    assert order.tolist() == [4, 11, 6, 10, 2, 9, 1, 8, 3, 7, 5, 0]


# --- TensorLoader and augmentation ----------------------------------------------------------


def numbered(count=10, side=6):
    """Images that say which one they are, as uint8, and their labels."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side)
    return images, torch.arange(count)


def test_loader_keeps_pairs_order_and_the_last_batch():
    images, labels = numbered()
    loader = TensorLoader(images, labels, batch_size=4)
    assert [len(part) for _, part in loader] == [4, 4, 2] and len(loader) == 3
    seen, order = everything(loader)
    assert torch.equal(order, labels) and torch.equal(seen, images.float() / 255)


def test_loader_shuffles_as_a_function_of_seed_and_epoch():
    images, labels = numbered(100)

    def loader(seed, epoch):
        made = TensorLoader(
            images, labels, batch_size=8, shuffle=True, augment=random_shift(1), seed=seed
        )
        made.set_epoch(epoch)
        return made

    first = loader(3, 5)
    seen, order = everything(first)
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(seen[:, 0, 0, 0] * 255, order.float())
    torch.manual_seed(99)  # the global generator plays no part, in either direction
    state = torch.get_rng_state()
    assert same(first, loader(3, 5))
    assert torch.equal(state, torch.get_rng_state())
    for other in (loader(3, 6), loader(4, 5), loader(5, 3)):
        assert not torch.equal(order, everything(other)[1])


def test_loader_normalises_and_keeps_its_images():
    images, labels = numbered()
    kept = images.clone()
    loader = TensorLoader(images, labels, batch_size=10, normalise=((0.5, 0.4, 0), (0.5, 2, 1)))
    for batch, _ in loader:
        pixel = images[:, 0, 0, 0] / 255
        expected = torch.stack([(pixel - 0.5) / 0.5, (pixel - 0.4) / 2, pixel], dim=1)
        torch.testing.assert_close(batch[:, :, 2, 3], expected)
        batch.zero_()
    floats = torch.rand(4, 1, 2, 2)
    for batch, _ in TensorLoader(floats, labels[:4], batch_size=4):
        assert torch.equal(batch, floats)
        batch.zero_()
    assert torch.equal(images, kept) and bool(floats.any())


def test_loader_refuses_what_does_not_fit():
    images, labels = numbered()
    refused(lambda: TensorLoader(images, labels[:9], batch_size=4), "[10, 3, 6, 6]", "[9]")
    refused(lambda: TensorLoader(images[:0], labels[:0], batch_size=4), "at least 1")
    refused(lambda: TensorLoader(images, labels, batch_size=0), "batch_size: 0")
    refused(lambda: load_data("digits", seed=-1), "seed: -1")
    refused(lambda: load_data("digits", eval_batch_size=0), "eval_batch_size: 0")


def test_shift_moves_each_image_by_its_own_offset_and_repeats_the_edge():
    images = torch.randint(0, 256, (200, 3, 7, 9), dtype=torch.uint8)
    moved = random_shift(2)(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.dtype == images.dtype
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="replicate").byte()
    offsets = [(y, x) for y in range(5) for x in range(5)]
    windows = torch.stack([padded[:, :, y : y + 7, x : x + 9] for y, x in offsets])
    matches = (windows == moved).flatten(2).all(dim=2)  # [25 offsets, 200 images]
    assert bool((matches.sum(dim=0) == 1).all()), "a shift by more, or none of the image's own"
    assert bool(matches.any(dim=1).all()), "an offset that never comes"


def test_flip_mirrors_about_half_of_the_images():
    images = torch.rand(400, 3, 4, 5)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (flipped == images).flatten(1).all(1)).all())
    assert 150 < int(mirrored.sum()) < 250
    twice = both(lambda batch, _: batch + 1, lambda batch, _: batch * 2)
    assert torch.equal(twice(images, torch.Generator()), (images + 1) * 2)


def test_start_epoch_passes_over_loaders_without_epochs():
    images, labels = numbered()
    start_epoch(DataLoader(TensorDataset(images, labels)), 3)
    loader = TensorLoader(images, labels, batch_size=10, shuffle=True)
    before = everything(loader)[1]
    start_epoch(loader, 3)
    assert not torch.equal(before, everything(loader)[1])


# --- digits ---------------------------------------------------------------------------------


def test_digits_are_all_scans_in_disjoint_stratified_splits():
    data = load_data("digits")
    check_streams(data)
    assert (data.name, data.num_classes, data.input_shape) == ("digits", 10, (1, 16, 16))
    parts = {name: everything(getattr(data, name)) for name in STREAMS[1:]}
    assert {name: len(labels) for name, (_, labels) in parts.items()} == {
        "calibration": 1257,
        "val": 180,
        "test": 360,
    }
    images = [row for part, _ in parts.values() for row in rows(part)]
    assert len(set(images)) == 1797
    whole = np.bincount(sklearn_digits().target) / 1797
    for _, labels in parts.values():
        assert np.abs(labels.bincount().numpy() - whole * len(labels)).max() <= 1
    pixels = parts["calibration"][0]
    assert abs(float(pixels.mean())) < 0.05 and abs(float(pixels.std()) - 1) < 0.05


def test_digits_splits_ignore_the_seed_and_the_training_order_does_not():
    first, again, other = (load_data("digits", seed=seed) for seed in (1, 1, 2))
    assert same(first.train, again.train)
    assert not same(first.train, other.train)
    for name in STREAMS[1:]:
        assert same(getattr(first, name), getattr(other, name))
    start_epoch(first.train, 1)
    assert not same(first.train, again.train)


# --- glyphs ---------------------------------------------------------------------------------


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


# --- CIFAR ----------------------------------------------------------------------------------


class Payload:
    """Unpickled by the ordinary unpickler, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def python2_pickle(data, key, labels):
    """The batch in the bytes that Python 2 writes, as in the published files."""

    def string(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value):
        return b"J" + struct.pack("<i", value)

    shape = integer(data.shape[0]) + integer(data.shape[1]) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNN" + 2 * integer(-1) + b"K\x00tb"
    state = b"(K\x01" + shape + dtype + b"\x89" + string(data.tobytes()) + b"tb"
    numbers = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + state + string(key) + numbers + b"u."


def batch_file(path, rng, count, classes, key, old=False):
    data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = [i % classes for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if old:
        path.write_bytes(python2_pickle(data, key, labels))
    else:
        path.write_bytes(pickle.dumps({b"data": data, key: labels}, protocol=2))
    return data.reshape(-1, 3, 32, 32), labels


@pytest.fixture
def cifar10(tmp_path):
    """A small CIFAR-10: the folder, and all training and test images."""
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    train = [
        batch_file(folder / f"data_batch_{i}", rng, 40, 10, b"labels", old=i % 2 == 0)[0]
        for i in range(1, 6)
    ]
    test, _ = batch_file(folder / "test_batch", rng, 30, 10, b"labels")
    return folder, np.concatenate(train), test


def test_cifar10_from_its_folder_or_the_parent(cifar10):
    folder, train, test = cifar10
    data = load_cifar("cifar10", folder, Batching(), val_size=50)
    check_streams(data)
    assert (data.name, data.num_classes, data.input_shape) == ("cifar10", 10, (3, 32, 32))
    assert same(data.test, load_cifar("cifar10", folder.parent, Batching(), val_size=50).test)

    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    std = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)

    def originals(loader):
        return (everything(loader)[0] * std + mean).mul(255).round().to(torch.uint8)

    assert torch.equal(originals(data.test), torch.from_numpy(test))
    held, kept = rows(originals(data.val)), rows(originals(data.calibration))
    assert (len(held), len(kept)) == (50, 150)
    assert sorted(held + kept) == sorted(rows(torch.from_numpy(train)))
    assert everything(data.val)[1].bincount().tolist() == [5] * 10
    labels = dict(zip(rows(torch.from_numpy(train)), [i % 10 for i in range(40)] * 5, strict=True))
    assert [labels[row] for row in kept] == everything(data.calibration)[1].tolist()


def test_cifar100_reads_the_fine_labels(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("train", 300), ("test", 100)):
        batch_file(tmp_path / "cifar-100-python" / name, rng, count, 100, b"fine_labels")
    data = load_cifar("cifar100", tmp_path, Batching(), val_size=100)
    check_streams(data)
    assert data.num_classes == 100
    assert everything(data.val)[1].bincount().tolist() == [1] * 100
    spec = f"cifar100:{tmp_path}"
    refused(lambda: load_data(spec), spec, "300 training images", "5000")


def test_cifar_runs_no_code(cifar10, tmp_path):
    folder, _, _ = cifar10
    file, mark = folder / "data_batch_3", tmp_path / "executed"
    good = pickle.loads(file.read_bytes(), encoding="bytes")
    for evil in (Payload(mark), {**good, b"more": [Payload(mark)]}):
        for protocol in (0, 2, 4):
            file.write_bytes(pickle.dumps(evil, protocol=protocol))
            refused(lambda: load_data(f"cifar10:{folder}"), file, "mkdir", "nothing was run")
    for text in (b"c__builtin__\neval\n(S'1'\ntR.", b"cbuiltins\nexec\n(S'1'\ntR."):
        file.write_bytes(text)
        refused(lambda: load_data(f"cifar10:{folder}"), file, "refused")
    file.write_bytes(b"c_codecs\nencode\n(S'abc'\nVrot13\ntR.")
    refused(lambda: load_data(f"cifar10:{folder}"), file, "codec")
    assert not mark.exists()
    file.write_bytes(pickle.dumps(Payload(mark)))
    pickle.loads(file.read_bytes())
    assert mark.exists(), "the payload would have worked"


def test_cifar_names_the_file_that_is_wrong(cifar10, tmp_path):
    folder, _, _ = cifar10
    spec = f"cifar10:{folder}"
    file = folder / "data_batch_2"
    pixels, labels = np.zeros((3, 3072), np.uint8), [0, 1, 2]
    for content, part in (
        ([1, 2], "b'data' is missing"),
        ({b"data": pixels}, "b'labels' is missing"),
        ({b"data": pixels[:, :5], b"labels": labels}, "uint8 [3, 5]"),
        ({b"data": pixels[:0], b"labels": []}, "uint8 [0, 3072]"),
        ({b"data": pixels.astype(np.int32), b"labels": labels}, "int32 [3, 3072]"),
        ({b"data": pixels.tolist(), b"labels": labels}, "expected uint8 [N, 3072]"),
        ({b"data": pixels, b"labels": [0, 1]}, "a list of 2"),
        ({b"data": pixels, b"labels": [0, 1, 10]}, "from 0 to 10"),
        ({b"data": pixels, b"labels": [0, 1, -1]}, "from -1 to 1"),
        ({b"data": pixels, b"labels": [0, 1, None]}, "2 of them integers"),
        ({b"data": pixels, b"labels": None}, "b'labels' is missing"),
        ({b"data": pixels, b"labels": "abc"}, "a str"),
    ):
        file.write_bytes(pickle.dumps(content, protocol=4))
        refused(lambda: load_data(spec), file, part, "expected")
    for content in (b"", b"\x80\x02}", b"plain text", pickle.dumps(labels)[:-3]):
        file.write_bytes(content)
        refused(lambda: load_data(spec), file, "cannot be read", "expected")
    file.unlink()
    refused(lambda: load_data(spec), file, "data_batch_5", "cifar-10-batches-py")
    refused(lambda: load_data(f"cifar100:{tmp_path / 'no'}"), "cifar-100-python", tmp_path / "no")


# --- image folders --------------------------------------------------------------------------


def write_images(folder, classes=("cat", "dog"), count=12, suffix="png"):
    """Images of several shapes, each of its class's and its own colour."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            size = [(20, 30), (40, 24), (16, 16)][i % 3]
            image = Image.new("RGB", size, (50 + 100 * label, 5 * i, 200 - 5 * i))
            image.save(folder / name / f"{i:02}.{suffix}")


def test_image_folder_is_split_by_class(tmp_path):
    write_images(tmp_path, count=40)
    (tmp_path / "cat" / "notes.txt").write_text("passed over")
    (tmp_path / ".hidden").mkdir()
    data = load_data(f"imagefolder:{tmp_path}?size=8", batch_size=7, eval_batch_size=16)
    check_streams(data)
    assert (data.num_classes, data.input_shape) == (2, (3, 8, 8))
    assert data.name == f"imagefolder:{tmp_path.name}"
    parts = {name: everything(getattr(data, name)) for name in STREAMS[1:]}
    assert {name: labels.bincount().tolist() for name, (_, labels) in parts.items()} == {
        "calibration": [32, 32],
        "val": [4, 4],
        "test": [4, 4],
    }
    # Every image has its own colour, so no image is in two splits if no colour is.
    colours = [tuple(pixel.tolist()) for part, _ in parts.values() for pixel in part[:, :, 4, 4]]
    assert len(set(colours)) == 80
    for images, labels in parts.values():
        red = (images[:, 0, 4, 4] * 0.229 + 0.485) * 255
        assert torch.allclose(red, 50.0 + 100 * labels, atol=1e-2)
    assert len(set(parts["calibration"][1][:4].tolist())) == 2, "not class by class"


def test_image_folder_with_its_own_splits(tmp_path):
    for name, count in (("train", 20), ("val", 6)):
        write_images(tmp_path / name, count=count, suffix="jpg")
    data = load_data(f"imagefolder:{tmp_path}", image_size=8)
    counts = [len(everything(getattr(data, name))[1]) for name in STREAMS]
    assert counts == [36, 36, 12, 4], "test is split off train, val is as given"
    write_images(tmp_path / "test", count=5)
    data = load_data(f"imagefolder:{tmp_path}", image_size=8)
    assert [len(everything(getattr(data, name))[1]) for name in STREAMS] == [40, 40, 12, 10]


def test_image_is_its_central_square(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            wide = np.zeros((10, 30, 3), np.uint8)
            wide[:, 10:20] = np.random.default_rng(i).integers(0, 256, (10, 10, 3))
            Image.fromarray(wide if i % 2 else wide.transpose(1, 0, 2)).save(
                tmp_path / name / f"{i}.png"
            )
    images, _ = everything(load_data(f"imagefolder:{tmp_path}?size=10").test)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    seen = (images[0] * std + mean).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    squares = [np.random.default_rng(i).integers(0, 256, (10, 10, 3)) for i in range(3)]
    squares += [square.transpose(1, 0, 2) for square in squares]
    assert any(np.array_equal(seen, square) for square in squares)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
def test_image_folder_training_depends_on_seed_and_epoch_only(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            noise = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{i}.png")

    def train(seed=0, epoch=0, workers=0):
        data = load_data(
            f"imagefolder:{tmp_path}", image_size=12, batch_size=5, seed=seed, workers=workers
        )
        start_epoch(data.train, epoch)
        return list(data.train)

    first = train()
    state = torch.get_rng_state()
    assert same(first, train())
    assert torch.equal(state, torch.get_rng_state())
    assert same(first, train(workers=2))
    assert not same(first, train(epoch=1)) and not same(first, train(seed=1))
    epochs = [set(rows(everything(train(epoch=epoch))[0])) for epoch in (0, 1)]
    assert not epochs[0] & epochs[1], "a crop that came twice"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_file_that_is_no_image_is_named(tmp_path, workers):
    write_images(tmp_path, count=3)
    for broken in (b"", b"no image", (tmp_path / "cat" / "00.png").read_bytes()[:60]):
        for file in (tmp_path / "dog").iterdir():
            file.write_bytes(broken)
        data = load_data(f"imagefolder:{tmp_path}?size=8", workers=workers)
        refused(lambda loader=data.val: list(loader), tmp_path / "dog", "as an image")


def test_image_folder_says_what_is_missing(tmp_path):
    def load(path):
        return lambda: load_data(f"imagefolder:{path}")

    refused(load(tmp_path / "no"), tmp_path / "no", "no such folder")
    refused(load(tmp_path), tmp_path, "one folder of images per class")
    (tmp_path / "a" / "cat").mkdir(parents=True)
    refused(load(tmp_path / "a"), tmp_path / "a" / "cat", "no images", ".png")
    write_images(tmp_path / "b", count=2)
    refused(load(tmp_path / "b"), "'cat' has 2 images", "at least 3", "val and test")
    write_images(tmp_path / "c" / "val")
    refused(load(tmp_path / "c"), "val but no train")
    write_images(tmp_path / "d" / "train")
    write_images(tmp_path / "d" / "val", classes=("cat", "cow", "dog"))
    refused(load(tmp_path / "d"), tmp_path / "d" / "val", "'cow'")
    refused(load(f"{tmp_path}?side=3"), "'side=3'", "size=pixels")
    refused(load(f"{tmp_path}?size=0"), "image size 0", "at least 1")
    refused(load(f"{tmp_path}?size=8&crop=0"), "crop 0", "(0, 1]")
    refused(load(f"{tmp_path}?crop=1.5"), "crop 1.5", "(0, 1]")
    refused(load(f"{tmp_path}?workers=-1"), "'workers=-1'", "workers=processes")


def test_image_folder_shows_what_resizing_and_cropping_the_centre_shows(tmp_path):
    """The usual recipe in two steps, to 256 and then 224, up to what interpolating twice does."""
    ramp = np.linspace(0, 255, 512)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[:384], 128), 2).astype(np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    image = Image.fromarray(pixels).resize((256, 341), Image.Resampling.BILINEAR)
    expected = image.crop((16, 58, 240, 282))
    images, _ = everything(load_data(f"imagefolder:{tmp_path}?size=224&crop=0.875").test)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in NORMALISE)
    found = (images[0] * std + mean) * 255
    wanted = torch.from_numpy(np.asarray(expected).copy()).movedim(2, 0)
    assert (found - wanted).abs().max() <= 2


# --- functions of the user's own ------------------------------------------------------------

USER_DATA = """
import torch
from amc.data import TensorLoader, load_data

def stream(*labels):
    return TensorLoader(torch.zeros(len(labels), 3, 8, 8), torch.tensor(labels), batch_size=2)

class Fixed:
    def __init__(self, *batches): self.batches = batches
    def __iter__(self): return iter(self.batches)
    def __len__(self): return len(self.batches)

class Broken(Fixed):
    def __iter__(self): raise OSError("disk gone")

good, images, labels = stream(0), torch.zeros(1, 3, 8, 8), torch.tensor([0])

def three(): return stream(0, 1, 2, 3), stream(0, 1, 2, 4), stream(1)
def four(): return (*three(), stream(2))
def digits(): return load_data("digits")

def number(): return 7
def two(): return good, good
def generator(): return good, (batch for batch in good), good
def empty(): return good, Fixed(), good
def single(): return Fixed(images), good, good
def flat(): return good, Fixed((torch.zeros(1, 8), labels)), good
def doubles(): return good, good, Fixed((images.double(), labels))
def float_labels(): return Fixed((images, labels / 2)), good, good
def negative(): return stream(-1), good, good
def sizes(): return good, Fixed((torch.zeros(1, 3, 9, 9), labels)), good
def fails(): raise RuntimeError("two\\nlines")
def broken(): return Broken(), good, good
"""


@pytest.fixture
def user_file(tmp_path):
    file = tmp_path / "user_data.py"
    file.write_text(USER_DATA)
    return file


def test_own_function_returns_loaders_or_data(user_file, monkeypatch):
    data = load_data(f"{user_file}:three")
    check_streams(Data(**{**vars(data), "train": data.calibration}))
    assert (data.num_classes, data.input_shape) == (5, (3, 8, 8))
    assert data.name == f"{user_file}:three"
    assert data.calibration is data.train
    assert everything(load_data(f"{user_file}:four").calibration)[1].tolist() == [2]
    assert load_data(f"{user_file}:digits").name == "digits"
    monkeypatch.syspath_prepend(user_file.parent)
    assert load_data("user_data:three").num_classes == 5
    sys.modules.pop("user_data")


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("number", ["returned a int", "tuple (train, val, test"]),
        ("two", ["returned a tuple of 2"]),
        ("generator", ["val is a generator", "__len__"]),
        ("empty", ["val yields no batch"]),
        ("single", ["train yields batches of [1, 3, 8, 8] float32"]),
        ("flat", ["val yields ([1, 8] float32, [1] int64"]),
        ("doubles", ["test yields ([1, 3, 8, 8] float64"]),
        ("float_labels", ["train yields", "[1] float32"]),
        ("negative", ["[1] int64 from -1"]),
        ("sizes", ["val has images [3, 9, 9], but train [3, 8, 8]"]),
        ("fails", ["calling it failed with RuntimeError: two lines"]),
        ("broken", ["reading train failed with OSError: disk gone"]),
        ("thre", ["has nothing called thre", "did you mean three?"]),
        ("good", ["not as a function"]),
    ],
)
def test_own_function_that_will_not_do(user_file, function, parts):
    refused(lambda: load_data(f"{user_file}:{function}"), f"{user_file}:{function}", *parts)


def test_load_function(tmp_path, monkeypatch):
    assert load_function("os.path:join") is os.path.join
    file = tmp_path / "json.py"  # a name that a module of Python's own has
    file.write_text("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\n")
    made = load_function(f"{file}:A")
    assert made().x == 1 and load_function(f"{file}:A") is made
    assert load_function("json:dumps")([1]) == "[1]"

    for text, part in (
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import not_installed_at_all", "No module named 'not_installed_at_all'"),
    ):
        file.write_text(text)
        other = tmp_path / f"{abs(hash(text))}.py"
        other.write_text(text)
        refused(lambda path=other: load_function(f"{path}:f"), other, "importing", part)
        assert str(other) not in sys.modules
    refused(lambda: load_function(f"{tmp_path}/no.py:f"), "no such file", "no.py")
    refused(lambda: load_function("no_such_module:f"), "No module named 'no_such_module'")
    for spec in ("os", "os:", ":f", "os:a b"):
        refused(lambda spec=spec: load_function(spec), spec, "package.module:function")


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("digit", "digits"),
        ("glyph:x/y", "glyphs"),
        ("cifar10", "cifar10:/path"),
        ("cifar100:", "cifar100:/path"),
        ("cfar10:/data", "cifar10:/path"),
        ("imagefolder", "imagefolder:/path[?size=pixels&crop=part&workers=processes]"),
        ("digits:x", "digits"),
        ("", None),
        ("zzz", None),
    ],
)
def test_unknown_data_is_told_the_forms_and_the_nearest(spec, nearest):
    line = refused(lambda: load_data(spec), repr(spec), "glyphs", "package.module:function")
    hint = re.search(r"did you mean (.*)\?$", line)
    assert (hint and hint[1]) == nearest
