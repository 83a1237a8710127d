"""Folders of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from amc.data import load_data, start_epoch
from amc.data.arrays.preprocessing import MEAN, STD
from data_streams import STREAMS, check_streams, everything, refused, rows, same


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
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    found = (images[0] * std + mean) * 255
    wanted = torch.from_numpy(np.asarray(expected).copy()).movedim(2, 0)
    assert (found - wanted).abs().max() <= 2
