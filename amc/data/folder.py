"""A folder of images, one folder per class: which files belong to which split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from amc.data.arrays.preprocessing import Preprocessing
from amc.data.arrays.split import stratified_order
from amc.data.images import Files, ImageLoader
from amc.data.loader import Batching, Data
from amc.runtime.errors import AmcError

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
HELD_OUT = 10  # one in so many training images for val, and for test, where they have no folder

ClassFiles = dict[str, list[Path]]  # the image files of each class, both sorted by name


def load_folder(
    path: Path, batching: Batching, preprocessing: Preprocessing, *, workers: int = 0
) -> Data:
    """The images of `path`, in folders train, val and test of class folders, or in class folders.

    What has no folder of its own is held out of the training images, one in ten of each class.

    Args:
        path: The folder.
        batching: How to cut the streams.
        preprocessing: What of an image is shown, at which size, and how it is normalised.
        workers: Processes that decode; 0 decodes in the process that trains.

    Raises:
        AmcError: The folder is missing, empty or arranged in another way, or a class is too small
            to be split. A file that is no image is an AmcError when its batch is asked for.
    """
    splits = _splits(path)
    outputs = preprocessing.outputs(tuple(splits["train"]))

    def stream(split: str, *, train: bool = False) -> ImageLoader:
        classes = splits[split].values()
        labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes])
        paths = list(chain.from_iterable(classes))
        # Not class by class: whoever reads the first batches only must meet every class.
        order = stratified_order(labels)
        return ImageLoader(
            Files([paths[i] for i in order]),
            outputs[labels[order]].tolist(),
            preprocessing=preprocessing,
            batch_size=batching.batch_size if train else batching.eval_batch_size,
            augment=train,
            workers=workers,
            seed=batching.seed,
        )

    return Data(
        name=f"imagefolder:{path.resolve().name}",
        train=stream("train", train=True),
        calibration=stream("train"),
        val=stream("val"),
        test=stream("test"),
        num_classes=len(splits["train"]),
        input_shape=preprocessing.shape,
        prepared=str(preprocessing) if preprocessing.source else "",
    )


def _splits(path: Path) -> dict[str, ClassFiles]:
    """The files of train, val and test, read from their folders or split off train."""
    present = [name for name in ("train", "val", "test") if (path / name).is_dir()]
    if present and "train" not in present:
        raise AmcError(
            f"{path}: has {' and '.join(present)} but no train; expected train (and val, test), "
            "or the class folders themselves"
        )
    splits = {name: _class_files(path / name) for name in present}
    if not present:
        splits["train"] = _class_files(path)
    missing = [name for name in ("val", "test") if name not in splits]
    splits |= _hold_out(splits["train"], missing, path)
    for name in present:
        if different := set(splits[name]) ^ set(splits["train"]):
            raise AmcError(
                f"{path / name}: class {min(different)!r} is not in both {name} and train, "
                "expected the same class folders"
            )
    return splits


def _class_files(path: Path) -> ClassFiles:
    """The image files in each class folder of `path`; other files are passed over."""
    if not path.is_dir():
        raise AmcError(f"{path}: no such folder; expected one folder of images per class")
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    classes = {folder.name: _images(folder) for folder in folders if folder.name[0] != "."}
    if not classes:
        raise AmcError(f"{path}: no folders in it; expected one folder of images per class")
    for name, files in classes.items():
        if not files:
            raise AmcError(
                f"{path / name}: no images in it; expected {', '.join(sorted(SUFFIXES))}"
            )
    return classes


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _hold_out(train: ClassFiles, names: Sequence[str], path: Path) -> dict[str, ClassFiles]:
    """Split one in ten files of every class, and at least one, off `train` for each of `names`."""
    splits: dict[str, ClassFiles] = {name: {} for name in (*names, "train")}
    for label, files in train.items():
        count = max(1, len(files) // HELD_OUT)
        if len(files) <= count * len(names):
            raise AmcError(
                f"{path}: class {label!r} has {len(files)} images, expected at least "
                f"{len(names) + 1} to split off {' and '.join(names)}"
            )
        order = np.random.RandomState(0).permutation(len(files))  # frozen, as in split.py
        cuts = [count * (i + 1) for i in range(len(names))]
        for name, part in zip(splits, np.split(order, cuts), strict=True):
            splits[name][label] = sorted(files[i] for i in part)
    return splits
