"""IDX files written here byte by byte: what is read, split, turned and refused."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from amc.data import load_data
from amc.data.loader import to_float
from data_streams import check_streams, everything, refused, rows, same

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip


def idx(numbers, kind=8):
    """The bytes of a file."""
    sizes = struct.pack(f">{numbers.ndim}I", *numbers.shape)
    return bytes([0, 0, kind, numbers.ndim]) + sizes + numbers.astype(np.uint8).tobytes()


def drawn(count, classes=10, lowest=0, shape=(6, 5), seed=0):
    """Images of which no two are equal, and labels in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, np.arange(count) % classes + lowest


def write(folder, train, test, names=NAMES, pack=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in zip(names, (*train, *test), strict=True):
        (folder / name).write_bytes(pack(idx(numbers)))
    return f"idx:{folder}"


@pytest.fixture
def small(tmp_path):
    """A small MNIST, and its images and labels."""
    train, test = drawn(200), drawn(30, seed=1)
    return write(tmp_path / "mnist", train, test), train, test


def originals(data, stream):
    """A stream's images as the files hold them, [N, C, H, W] uint8, and its labels."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in data.test._normalise)
    images, labels = everything(getattr(data, stream))
    return (images * std + mean).mul(255).round().to(torch.uint8), labels


def test_a_file_read_by_hand(tmp_path):
    # Two images of 1 x 2 pixels: 7 8 and 9 10; labels 0 and 1; ten times for training.
    for part, times in (("train", 10), ("t10k", 1)):
        images = b"\0\0\x08\x03\0\0\0" + bytes([2 * times]) + b"\0\0\0\1\0\0\0\2"
        labels = b"\0\0\x08\x01\0\0\0" + bytes([2 * times])
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images + b"\7\x08\x09\x0a" * times)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels + b"\0\1" * times)
    data = load_data(f"idx:{tmp_path}")
    images, labels = everything(data.test)
    mean, std = 8.5, 1.25**0.5  # of 7, 8, 9, 10
    wanted = (torch.tensor([[7.0, 8.0], [9.0, 10.0]]) - mean) / std
    torch.testing.assert_close(images.view(2, 2), wanted, rtol=1e-5, atol=1e-5)
    assert labels.tolist() == [0, 1] and data.input_shape == (1, 1, 2)


def test_streams_are_the_files(small):
    spec, train, test = small
    data = load_data(spec)
    check_streams(data)
    assert (data.num_classes, data.input_shape) == (10, (1, 6, 5))
    images, labels = originals(data, "test")
    assert torch.equal(images[:, 0], torch.from_numpy(test[0])) and labels.tolist() == list(
        test[1]
    )

    held, kept = originals(data, "val"), originals(data, "calibration")
    assert (len(held[0]), len(kept[0])) == (20, 180)
    assert held[1].bincount().tolist() == [2] * 10
    assert sorted(rows(held[0]) + rows(kept[0])) == sorted(rows(torch.from_numpy(train[0])))
    known = dict(zip(rows(torch.from_numpy(train[0])), train[1].tolist(), strict=True))
    for images, labels in (held, kept):
        assert [known[row] for row in rows(images)] == labels.tolist()

    whole = everything(data.calibration)[0]
    assert abs(float(whole.mean())) < 1e-5 and abs(float(whole.std(correction=0)) - 1) < 1e-5
    assert same(data.train, load_data(spec).train)
    assert not same(data.train, load_data(spec, seed=1).train)
    assert same(data.val, load_data(spec, seed=1).val)


def test_training_images_are_moved_by_two_pixels(small):
    data = load_data(small[0])
    stored = {}
    for image in everything(data.calibration)[0]:
        padded = torch.nn.functional.pad(image[None], (2, 2, 2, 2), mode="replicate")[0]
        for y in range(5):
            for x in range(5):
                stored.setdefault(rows([padded[:, y : y + 6, x : x + 5]])[0], set()).add((y, x))
    places = [stored[row] for row in rows(everything(data.train)[0])]
    assert {place for found in places for place in found} >= {(0, 0), (0, 4), (4, 0), (4, 4)}


def test_flips_are_asked_for(tmp_path):
    # Images whose rows are alike and whose left half is black: only a flip makes it white.
    images = np.zeros((40, 6, 8), np.uint8)
    images[:, :, 4:] = np.arange(1, 41)[:, None, None] + 100
    spec = write(tmp_path / "m", (images, np.arange(40) % 2), (images, np.arange(40) % 2))
    black = everything(load_data(spec).test)[0].min()
    for flip, parts in (("", {False}), ("?flip=0", {False}), ("?flip=1", {True, False})):
        data = load_data(spec + flip)
        assert {bool(image[0, 0, 0] > black) for image in everything(data.train)[0]} == parts
    assert data.name.endswith("-flip") and not load_data(f"{spec}?flip=0").name.endswith("-flip")


def test_a_subset_of_the_training_images(small):
    spec = small[0]
    whole, part = load_data(spec), load_data(f"{spec}?train=50")
    assert same(whole.val, part.val) and same(whole.test, part.test)
    images, labels = everything(part.calibration)
    assert labels.bincount().tolist() == [5] * 10
    assert torch.equal(images, everything(whole.calibration)[0][:50])
    assert part.name == f"{whole.name}-50"
    assert len(everything(load_data(f"{spec}?train=180").train)[1]) == 180
    refused(lambda: load_data(f"{spec}?train=181"), "train=181", "at most 180")
    for wrong in ("train=0", "train=x", "train=", "flip=2", "size=3", "", "train=5&"):
        refused(lambda wrong=wrong: load_data(f"{spec}?{wrong}"), spec, "expected set=name")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "names",
    [
        [f"{name}.gz" for name in NAMES],
        [name.replace("-idx", ".idx") for name in NAMES],
        [f"kmnist-{name}" for name in NAMES],
    ],
    ids=["gz", "dot", "prefix"],
)
def test_names_as_published(small, tmp_path, names, pack):
    spec, train, test = small
    other = write(tmp_path / "MNIST" / "raw", train, test, names, pack)
    assert all(same(load_data(spec).test, load_data(o).test) for o in (spec, other))
    begin = "kmnist-" if names[0].startswith("kmnist") else "mnist-"
    assert load_data(other).name.startswith(begin)


def test_weights_of_one_data_set_are_never_taken_for_another(small, tmp_path):
    spec, train, test = small
    again = write(tmp_path / "elsewhere" / "mnist", train, test)
    other = write(tmp_path / "other" / "mnist", drawn(200, seed=5), test)
    name = load_data(spec).name
    assert load_data(again).name == name != load_data(other).name
    assert name.startswith("mnist-")


def test_emnist_has_several_sets_turned_images_and_labels_from_one(tmp_path):
    letters = [
        "emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train-labels-idx1-ubyte.gz",
        "emnist-letters-test-images-idx3-ubyte.gz", "emnist-letters-test-labels-idx1-ubyte.gz",
    ]  # fmt: skip
    train, test = drawn(260, classes=26, lowest=1), drawn(26, classes=26, lowest=1, seed=1)
    spec = write(tmp_path, train, test, letters, gzip.compress)
    data = load_data(spec)
    check_streams(data)
    assert data.name.startswith("emnist-letters-") and data.num_classes == 26
    assert data.input_shape == (1, 5, 6)
    images, labels = originals(data, "test")
    assert torch.equal(images[:, 0], torch.from_numpy(test[0]).transpose(1, 2))
    assert labels.tolist() == list(range(26))

    digits = [name.replace("letters", "digits") for name in letters]
    write(tmp_path, drawn(100), drawn(10), digits, gzip.compress)
    told = refused(lambda: load_data(spec), "2 data sets, emnist-digits, emnist-letters")
    assert told.endswith(f"{spec}?set=letters")
    assert load_data(f"{spec}?set=letters").num_classes == 26
    assert load_data(f"{spec}?set=emnist-digits").num_classes == 10
    refused(lambda: load_data(f"{spec}?set=byclass"), "set=byclass", "emnist-letters")
    write(tmp_path, drawn(100, classes=4), drawn(10, classes=4))
    assert load_data(f"{spec}?set=").num_classes == 4


@pytest.mark.parametrize("last", [True, False])
def test_colour(tmp_path, last):
    names = [name.replace("idx3", "idx4") for name in NAMES]
    shape = (6, 5, 3) if last else (3, 6, 5)
    train, test = drawn(40, shape=shape), drawn(10, shape=shape, seed=1)
    data = load_data(write(tmp_path, train, test, names))
    check_streams(data)
    assert data.input_shape == (3, 6, 5)
    wanted = torch.from_numpy(test[0].transpose(0, 3, 1, 2) if last else test[0])
    assert torch.equal(originals(data, "test")[0], wanted)
    assert everything(data.calibration)[0].mean((0, 2, 3)).abs().max() < 1e-5


def test_one_colour_only_is_no_division_by_zero(tmp_path):
    images, labels = np.full((20, 4, 4), 51, np.uint8), np.arange(20) % 2
    data = load_data(write(tmp_path, (images, labels), (images, labels)))
    assert torch.equal(everything(data.test)[0], to_float(torch.zeros(20, 1, 4, 4), None))


def damaged(good):
    packed = gzip.compress(good)
    return {
        "cannot be read: Compressed file ended": packed[:-20],
        "cannot be read: CRC check failed": packed[:-8] + b"\1" + packed[-7:],
        "cannot be read: Error -3": packed[:12] + b"\xff" * 20 + packed[32:],
        "begins with nothing": b"",
        "begins with 89 50 4e 47": b"\x89PNG\r\n",
        "begins with 00 00 08 00": b"\0\0\x08\0" + good[4:],
        "begins with 00 00 07 03": b"\0\0\x07\3" + good[4:],
        "begins with 00 01 08 03": b"\0\1\x08\3" + good[4:],
        "holds float32, expected uint8": b"\0\0\x0d\3" + good[4:],
        "ends within its header": good[:14],
        "need 6000 bytes, there are 5999": good[:-1],
        "need 6000 bytes, there are more": good + b"\0",
        "need 79228162458924105385300197375 bytes": good[:4] + b"\xff" * 12 + good[16:],
        "sizes [6000], expected images": idx(np.zeros(6000)),
        "sizes [0, 6, 5], expected images": idx(np.zeros((0, 6, 5))),
        "sizes [10, 6, 5, 4], expected images": idx(np.zeros((10, 6, 5, 4))),
    }


def test_every_damage_is_one_line(small, tmp_path):
    spec, train, test = small
    file = tmp_path / "mnist" / NAMES[0]
    for said, content in damaged(idx(train[0])).items():
        file.write_bytes(content)
        refused(lambda: load_data(spec), file, said)
    file.write_bytes(idx(train[0][:, :5]))
    refused(lambda: load_data(spec), NAMES[2], "images [1, 6, 5]", "[1, 5, 5]")
    file.write_bytes(idx(train[0]))

    labels, test_labels = tmp_path / "mnist" / NAMES[1], tmp_path / "mnist" / NAMES[3]
    labels.write_bytes(idx(train[1][:-1]))
    refused(lambda: load_data(spec), labels, "sizes [199], expected 200 labels")
    labels.write_bytes(idx(train[1]))
    test_labels.write_bytes(idx(test[1] + 1))
    refused(lambda: load_data(spec), test_labels, "labels 1 to 10", "training 0 to 9")
    test_labels.unlink()
    refused(lambda: load_data(spec), "no test-labels", NAMES[2])
    test_labels.mkdir()
    refused(lambda: load_data(spec), "no test-labels")

    refused(lambda: load_data(f"idx:{tmp_path}"), tmp_path, NAMES[0], ".gz")
    refused(lambda: load_data(f"idx:{tmp_path / 'no'}"), tmp_path / "no", "no such folder")
    tiny = write(tmp_path / "tiny", drawn(9), drawn(9))
    refused(lambda: load_data(tiny), "9 images, expected at least 10")
