"""Data of Hugging Face's `datasets`: folders, files, columns; without network."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from amc.data import load_data, start_epoch
from amc.data.arrays.preprocessing import MEAN, STD, Preprocessing
from data_streams import check_streams, everything, refused, same

datasets = pytest.importorskip("datasets", reason="needs amc-pruning[hf]")
pytestmark = pytest.mark.filterwarnings("ignore")  # what other packages warn of is their affair

NAMES = ("bird", "cat", "dog")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def pictures(count=20, size=(100, 120), mode="RGB"):
    """(picture, class): each its own, its first pixel tells which."""
    rng = np.random.default_rng(0)
    for index in range(count * len(NAMES)):
        height, width = size
        pixels = rng.integers(0, 256, (height + (index % 3 if size[0] > 96 else 0), width, 3))
        yield Image.fromarray(pixels.astype(np.uint8)).convert(mode), index % len(NAMES)


def write_folder(path, **given):
    for index, (picture, label) in enumerate(pictures(**given)):
        (path / NAMES[label]).mkdir(parents=True, exist_ok=True)
        picture.save(path / NAMES[label] / f"{index:03}.png")
    return path


def table(features=None, **columns):
    return datasets.Dataset.from_dict(columns, features=features and datasets.Features(features))


def encoded(picture):
    file = io.BytesIO()
    picture.save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def test_a_folder_of_class_folders(tmp_path):
    folder = write_folder(tmp_path / "pics")
    data = load_data(f"hf:{folder}?size=32", batch_size=7)
    check_streams(data)
    assert data.num_classes == 3 and data.input_shape == (3, 32, 32)
    assert [len(everything(getattr(data, p))[1]) for p in ("train", "val", "test")] == [48, 6, 6]
    first, again = everything(data.train), everything(load_data(f"hf:{folder}?size=32").train)
    assert sorted(first[1].tolist()) == sorted(again[1].tolist())
    before = list(data.train)
    start_epoch(data.train, 1)
    assert not same(before, data.train)
    assert load_data(f"hf:{folder}?size=16").name != data.name


def test_an_image_by_hand(tmp_path):
    folder = write_folder(tmp_path / "pics", count=4)
    data = load_data(f"hf:{folder}?size=40&crop=0.5&workers=2")
    images, labels = everything(data.test)
    found = []
    for path in sorted(folder.glob("*/*.png")):
        with Image.open(path) as file:
            width, height = file.size
            half = min(width, height) / 2
            box = (
                (width - half) / 2,
                (height - half) / 2,
                (width + half) / 2,
                (height + half) / 2,
            )
            pixels = np.asarray(file.resize((40, 40), Image.Resampling.BILINEAR, box=box)) / 255
        normal = (pixels - MEAN) / STD
        found.append((normal.transpose(2, 0, 1).astype(np.float32), NAMES.index(path.parent.name)))
    for image, label in zip(images, labels, strict=True):
        distances = [float(np.abs(image.numpy() - other).max()) for other, _ in found]
        assert min(distances) < 1e-5 and found[int(np.argmin(distances))][1] == label


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_small_images_of_one_size_stay_as_they_are(tmp_path, mode, channels):
    folder = write_folder(tmp_path / "pics", size=(12, 14), mode=mode)
    data = load_data(f"hf:{folder}")
    check_streams(data)
    assert data.input_shape == (channels, 12, 14) and data.prepared.startswith("as they are")
    mean, std = (MEAN, STD) if channels == 3 else ((0.449,), (0.226,))
    first = np.asarray(next(iter(pictures(size=(12, 14), mode=mode)))[0]) / 255
    wanted = (first.reshape(12, 14, channels) - mean) / std
    every = torch.cat([everything(getattr(data, p))[0] for p in ("calibration", "val", "test")])
    distances = (every - torch.tensor(wanted.transpose(2, 0, 1), dtype=torch.float32)).abs()
    assert float(distances.amax((1, 2, 3)).min()) < 1e-5


def test_images_as_the_network_wants_them(tmp_path):
    folder = write_folder(tmp_path / "pics", size=(12, 14))
    shown = Preprocessing(24, 0.9, mean=(0.5,) * 3, std=(0.5,) * 3, labels=("dog", "bird", "cat"))
    data = load_data(f"hf:{folder}", preprocessing=shown)
    plain = load_data(f"hf:{folder}?size=24")
    assert data.input_shape == (3, 24, 24) and str(shown) == data.prepared
    ours, theirs = everything(data.test)[1], everything(plain.test)[1]
    assert torch.equal(ours, torch.tensor([1, 2, 0])[theirs])  # the network's order
    assert load_data(f"hf:{folder}?size=48", preprocessing=shown).input_shape == (3, 48, 48)


def test_files_and_columns_of_other_names(tmp_path):
    made = list(pictures(count=20, size=(10, 10)))
    words = [NAMES[label] for _, label in made]
    plain = table(scan=[encoded(p) for p, _ in made], kind=words, number=list(range(60)))
    plain.to_parquet(tmp_path / "x.parquet")  # bytes, which no type calls images
    spec = f"hf:{tmp_path / 'x.parquet'}"
    refused(lambda: load_data(spec), "no image columns among scan, kind, number", "?image=NAME")
    refused(lambda: load_data(f"{spec}?image=scan"), "no label columns", "?label=NAME")
    refused(lambda: load_data(f"{spec}?image=scan&label=sort"), "'sort'", "scan, kind, number")
    data = load_data(f"{spec}?image=scan&label=kind")
    check_streams(data)
    assert data.num_classes == 3 and data.input_shape == (3, 10, 10)
    refused(lambda: load_data(f"{spec}?image=kind&label=number"), "kind", "image")
    refused(lambda: load_data(f"hf:{tmp_path / 'none.parquet'}"), "no such file or folder")
    (tmp_path / "x.csv").write_text("a,b")
    refused(lambda: load_data(f"hf:{tmp_path / 'x.csv'}"), ".parquet")


def test_two_label_columns_are_told_apart(tmp_path):
    made = list(pictures(count=20, size=(10, 10)))
    kinds = {"image": datasets.Image(), "fine": datasets.ClassLabel(names=["a", "b", "c"]),
             "coarse": datasets.ClassLabel(names=["x", "y"])}  # fmt: skip
    both = table(kinds, image=[p for p, _ in made], fine=[n for _, n in made],
                 coarse=[n // 2 for _, n in made])  # fmt: skip
    datasets.DatasetDict({"train": both}).save_to_disk(str(tmp_path / "saved"))
    spec = f"hf:{tmp_path / 'saved'}"
    refused(lambda: load_data(spec), "several label columns among fine, coarse", "?label=NAME")
    assert load_data(f"{spec}?label=fine").num_classes == 3
    assert load_data(f"{spec}?label=coarse").num_classes == 2


def test_splits_by_name_and_a_test_without_labels(tmp_path):
    made = list(pictures(count=20, size=(10, 10)))
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    images = [picture for picture, _ in made]
    known = table(kinds, image=images, label=[n for _, n in made])
    secret = table(kinds, image=images, label=[-1] * len(made))
    saved = {"train": known, "validation": known.select(range(30)), "test": secret}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "saved"))
    spec = f"hf:{tmp_path / 'saved'}"
    data = load_data(spec)
    sizes = {p: len(everything(getattr(data, p))[1]) for p in ("train", "val", "test")}
    assert sizes == {"train": 54, "val": 30, "test": 6}  # test is held out of train
    only = load_data(f"{spec}?split=validation")
    assert len(everything(only.train)[1]) == 24
    swapped = load_data(f"{spec}?train=validation&test=train")
    assert len(everything(swapped.test)[1]) == 60
    refused(lambda: load_data(f"{spec}?train=all"), "no split 'all'", "train, validation, test")
    refused(lambda: load_data(f"{spec}?train=test"), "holds no labels")
    half = table(kinds, image=images, label=[-1, *[n for _, n in made[1:]]])
    datasets.DatasetDict({"train": half}).save_to_disk(str(tmp_path / "half"))
    refused(lambda: load_data(f"hf:{tmp_path / 'half'}"), "1 images have no label")


def test_a_file_that_is_no_image_is_named(tmp_path):
    folder = write_folder(tmp_path / "pics")
    for broken in folder.glob("dog/*.png"):
        broken.write_bytes(b"nothing")
    refused(lambda: everything(load_data(f"hf:{folder}?size=16").train), "image", "cannot be read")


def test_without_network_in_one_line():
    refused(lambda: load_data("hf:org/none"), "hf:org/none: cannot be loaded", "without network")


def test_settings_are_checked():
    for spec, part in (
        ("hf:x?size=0", "at least 1"), ("hf:x?crop=2", "(0, 1]"), ("hf:x?size=a", "size=pixels"),
        ("hf:x?image", "name=value"), ("hf:x?colour=1", "no setting 'colour'"),
    ):  # fmt: skip
        refused(lambda spec=spec: load_data(spec), part)
