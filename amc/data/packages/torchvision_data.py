"""Data sets of torchvision that are for classification."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amc.data.arrays.pictures import Labelled
from amc.runtime.errors import AmcError
from amc.runtime.files import expanded
from amc.runtime.names import PictureSettings
from amc.runtime.user_code import one_line, package_code

Calls = Mapping[str, Mapping[str, Any]]
"""Part -> arguments that say so."""


def _by(**parts: str) -> Calls:
    return {part: {"split": name} for part, name in parts.items()}


FLAG: Calls = {"train": {"train": True}, "test": {"train": False}}
TWO, THREE = _by(train="train", test="test"), _by(train="train", val="val", test="test")
WHOLE: Calls = {"train": {}}
SETS: Mapping[str, Calls] = {
    "MNIST": FLAG, "FashionMNIST": FLAG, "KMNIST": FLAG, "EMNIST": FLAG, "USPS": FLAG,
    "SVHN": TWO, "STL10": TWO, "Food101": TWO, "StanfordCars": TWO, "GTSRB": TWO,
    "Flowers102": THREE, "DTD": THREE, "FGVCAircraft": THREE, "RenderedSST2": THREE,
    "PCAM": THREE, "Country211": _by(train="train", val="valid", test="test"),
    "OxfordIIITPet": _by(train="trainval", test="test"),
    "ImageNet": _by(train="train", val="val"), "Imagenette": _by(train="train", val="val"),
    "EuroSAT": WHOLE, "SUN397": WHOLE, "Caltech101": WHOLE, "Caltech256": WHOLE,
    "SEMEION": WHOLE, "FakeData": WHOLE,
}  # fmt: skip
"""What a part of each is called. Those that are kept as pickles are not here; of CIFAR's, which
are, the reader of this project takes the place."""

CIFAR = ("CIFAR10", "CIFAR100")
TURNED = frozenset(("MNIST", "KMNIST", "EMNIST", "USPS", "SVHN", "GTSRB", "SEMEION"))
"""Those of which a mirrored image is another sign."""

FAKE = {"images": "size", "classes": "num_classes", "size": "image_size"}
"""Settings of `FakeData` -> its arguments; ``size`` is that of an image everywhere else."""

KEPT = ("targets", "labels", "_labels", "y")
"""Where data sets keep all their labels."""


@dataclass(frozen=True)
class Items:
    """The pictures of a data set of (picture, label)."""

    dataset: Any
    where: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int, /) -> Image.Image:
        try:
            picture: Image.Image = self.dataset[index][0]
        except Exception as error:  # of a decoder, or of a file that has gone
            raise AmcError(
                f"{self.where}: image {index} cannot be read: {one_line(error)}"
            ) from None
        return picture


def open_torchvision(given: PictureSettings) -> dict[str, Labelled]:
    """Pictures and labels of train, and of val and test where it has them.

    Nothing is fetched unless ``download=1`` says so.

    Args:
        given: the name of one of `SETS`; ``root=`` is its folder, further settings are arguments
            of its own.

    Raises:
        AmcError: there is none of that name, it is not in the folder, or it has no such setting.
    """
    import torchvision.datasets

    where = f"torchvision:{given.name}"
    if given.name not in SETS:
        known = sorted((*SETS, *CIFAR))
        plain = {name.lower(): name for name in known}
        near = difflib.get_close_matches(given.name.lower(), plain, n=1)
        hint = f"; did you mean {plain[near[0]]}?" if near else ""
        raise AmcError(f"{where}: unknown, there are {', '.join(known)}{hint}")
    kind = getattr(torchvision.datasets, given.name)
    arguments = _arguments(given, kind, where)
    parts: dict[str, Labelled] = {}
    names: tuple[str, ...] = ()
    for part, call in SETS[given.name].items():
        fixed = {k: v for k, v in call.items() if k not in arguments}
        if given.name == "EMNIST":  # whose split is which letters it holds
            fixed = {**call, "split": arguments.get("split", "balanced")}
        advice = "" if given.others.get("download") == "1" else "; ?download=1 fetches it"
        with package_code(f"{where}: cannot be opened", advice):
            dataset = kind(**{**arguments, **fixed})
        here = f"{where}: {part}"
        names = names or tuple(str(name) for name in getattr(dataset, "classes", ()))
        if given.name == "FakeData":  # of which not every class need be drawn
            names = tuple(map(str, range(dataset.num_classes)))
        parts[part] = Labelled(Items(dataset, here), labels_of(dataset, here))
    # EMNIST's letters begin with 1
    lowest = int(parts["train"].labels.min()) if given.name == "EMNIST" else 0
    count = 1 - lowest + max(int(part.labels.max()) for part in parts.values())
    names = names if len(names) == count or (not lowest and len(names) > count) else ()
    return {p: Labelled(x.pictures, x.labels - lowest, names) for p, x in parts.items()}


def cifar_folder(given: PictureSettings, folder: str) -> Path:
    """The folder of CIFAR's files, which are fetched if that is asked for.

    Raises:
        AmcError: a setting that it does not have, or it cannot be fetched.
    """
    import torchvision.datasets
    from torchvision.datasets.utils import download_and_extract_archive

    where = f"torchvision:{given.name}"
    kind = getattr(torchvision.datasets, given.name)
    arguments = _arguments(given, kind, where)
    root = Path(arguments["root"])
    if arguments.get("download"):
        if not (root / folder).is_dir():
            with package_code(f"{where}: cannot be fetched"):
                download_and_extract_archive(
                    kind.url, str(root), filename=kind.filename, md5=kind.tgz_md5
                )
    elif not (root / folder).is_dir():
        raise AmcError(f"{where}: no folder {root / folder}; ?download=1 fetches it")
    return root


def _arguments(given: PictureSettings, kind: Any, where: str) -> dict[str, Any]:
    """Arguments of a data set's class, as the settings say."""
    taken = set(inspect.signature(kind.__init__).parameters)
    if "kwargs" in taken:
        taken |= set(inspect.signature(kind.__mro__[1].__init__).parameters)
    arguments = dict[str, Any]()
    if "root" in taken:
        if "root" not in given.others:
            raise AmcError(f"{where}: ?root=FOLDER must say where it is kept")
        arguments["root"] = str(expanded(given.others["root"]))
    for name, value in given.others.items():
        if name == "root":
            continue
        word = FAKE.get(name, name) if given.name == "FakeData" else name
        if word not in taken or word in ("transform", "target_transform", "loader", "train"):
            own = sorted(taken - {"self", "kwargs", "transform", "target_transform", "loader"})
            raise AmcError(f"{where}: no setting {name!r}; its own are {', '.join(own)}")
        arguments[word] = value == "1" if word == "download" else _value(value)
    if given.name == "FakeData" and given.side is not None:
        arguments["image_size"] = (3, given.side, given.side)
    return arguments


def _value(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def labels_of(dataset: Any, where: str) -> NDArray[np.int64]:
    """All labels [N], from where the data set keeps them, or by going through it."""
    for name in KEPT:
        kept = getattr(dataset, name, None)
        if kept is not None and len(kept) == len(dataset):
            found = np.asarray(kept)
            if found.ndim == 1 and found.dtype.kind in "iu":
                return found.astype(np.int64)
    with package_code(f"{where}: cannot be read"):
        return np.array([int(dataset[index][1]) for index in range(len(dataset))], np.int64)
