"""Data sets as Hugging Face's `datasets` reads them: from the hub, a folder or a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from amc.data.arrays.pictures import Labelled
from amc.runtime.errors import AmcError
from amc.runtime.files import expanded
from amc.runtime.names import PictureSettings, is_path
from amc.runtime.user_code import one_line, package_code

PARTS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Names that splits usually have."""

IMAGES, LABELS = ("image", "img", "pixel_values"), ("label", "labels", "class")
"""Names that columns usually have, where their types do not tell."""

READERS = {".parquet": "parquet", ".arrow": "arrow"}
"""Files that are read by themselves."""


@dataclass(frozen=True)
class Column:
    """The pictures of a column."""

    table: Any
    name: str
    where: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int, /) -> Image.Image:
        try:
            found = self.table[index][self.name]
        except Exception as error:  # of a decoder, or of a file that has gone
            raise AmcError(
                f"{self.where}: image {index} cannot be read: {one_line(error)}"
            ) from None
        if not isinstance(found, Image.Image):
            raise AmcError(f"{self.where}: image {index} is missing")
        return found


def open_hf(given: PictureSettings) -> dict[str, Labelled]:
    """Pictures and labels of train, and of val and test where there are any.

    No code of a data set's own is run: `datasets` from version 4 on has none.

    Args:
        given: a name on the hub, a folder or a file; ``image=`` and ``label=`` name columns,
            ``train=``, ``val=`` and ``test=`` splits, ``split=`` the only one to be used,
            ``config=`` and ``revision=`` are the hub's.

    Raises:
        AmcError: there is nothing of that name, or no image or label column can be told.
    """
    where = f"hf:{given.name}"
    splits = _splits(given, where)
    chosen = _parts(given, splits, where)
    image = _image_column(given, splits[chosen["train"]], where)
    label = _label_column(given, splits[chosen["train"]], image, where)
    parts: dict[str, Labelled] = {}
    classes: tuple[str, ...] = ()
    for part, split in chosen.items():
        here = f"{where}: {split}"
        table = _decoded(splits[split], image, here)
        labels, classes = _labels(splits[split], label, classes, here)
        if part == "train" and labels is None:
            raise AmcError(f"{here}: {label} holds no labels")
        if labels is not None:  # test sets of contests keep theirs to themselves
            parts[part] = Labelled(Column(table, image, here), labels, classes)
    return parts


def _splits(given: PictureSettings, where: str) -> Mapping[str, Any]:
    """The tables by split."""
    import datasets

    path = expanded(given.name) if is_path(given.name) else None
    if path is not None and not path.exists():
        raise AmcError(f"{where}: no such file or folder")
    advice = "" if path else (
        "; without network: hf:/path of a folder of class folders, or of parquet files"
    )  # fmt: skip
    with package_code(f"{where}: cannot be loaded", advice), _silent(datasets):
        if path is not None and any(
            (path / name).is_file() for name in ("dataset_dict.json", "state.json")
        ):
            found = datasets.load_from_disk(str(path))
        elif path is not None and path.is_file():
            reader = READERS.get(path.suffix)
            if reader is None:
                raise AmcError(f"{where}: expected {' or '.join(READERS)}, or a folder")
            found = datasets.load_dataset(reader, data_files=str(path))
        else:
            found = datasets.load_dataset(
                str(path or given.name),
                given.others.get("config"),
                revision=given.others.get("revision"),
            )
    return found if isinstance(found, Mapping) else {"train": found}


def _parts(given: PictureSettings, splits: Mapping[str, Any], where: str) -> dict[str, str]:
    """Which split is train, val and test."""
    named = {p: given.others[p] for p in PARTS if p in given.others}
    if only := given.others.get("split"):
        named = {"train": only}
    for name in named.values():
        if name not in splits:
            raise AmcError(f"{where}: no split {name!r}, there are {', '.join(splits)}")
    chosen = {
        part: next((name for name in names if name in splits), "")
        for part, names in PARTS.items()
        if not given.others.get("split")
    }
    if list(splits) != ["train"] and len(splits) == 1 and not named:
        chosen = {"train": next(iter(splits))}
    chosen = {part: name for part, name in {**chosen, **named}.items() if name}
    if "train" not in chosen:
        raise AmcError(
            f"{where}: no split train, there are {', '.join(splits)}: ?train=NAME names it"
        )
    return chosen


def _image_column(given: PictureSettings, table: Any, where: str) -> str:
    import datasets

    if name := given.others.get("image"):
        return _known(name, table, "image", where)
    found = [n for n, kind in table.features.items() if isinstance(kind, datasets.Image)]
    found = found or [n for n in IMAGES if n in table.features]
    return _only(found, table, "image", where)


def _label_column(given: PictureSettings, table: Any, image: str, where: str) -> str:
    import datasets

    if name := given.others.get("label"):
        return _known(name, table, "label", where)
    found = [n for n, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    found = found or [n for n in LABELS if n in table.features]
    left = [n for n in table.features if n != image]
    return _only(found or (left if len(left) == 1 else []), table, "label", where)


def _known(name: str, table: Any, what: str, where: str) -> str:
    if name not in table.features:
        raise AmcError(
            f"{where}: no {what} column {name!r}, there are {', '.join(table.features)}"
        )
    return name


def _only(found: list[str], table: Any, what: str, where: str) -> str:
    if len(found) == 1:
        return found[0]
    there, many = ", ".join(found or table.features), "several" if found else "no"
    raise AmcError(f"{where}: {many} {what} columns among {there}: ?{what}=NAME names it")


def _decoded(table: Any, image: str, where: str) -> Any:
    """The table, its bytes or paths of images as pictures."""
    import datasets

    kind = table.features[image]
    if not isinstance(kind, datasets.Image) or not kind.decode:
        said = f"{where}: {image} holds no images ({str(kind)[:80]})"
        if getattr(kind, "dtype", "") in ("string", "large_string"):  # paths, of any file
            raise AmcError(said)
        with package_code(said), _silent(datasets):
            table = table.cast_column(image, datasets.Image())
    return table.select_columns([image])


def _labels(
    table: Any, label: str, classes: tuple[str, ...], where: str
) -> tuple[Any, tuple[str, ...]]:
    """The classes [N] of a split, None if it has no labels; and the classes' names."""
    import datasets

    kind, found = table.features[label], table.with_format("numpy")[label][:]
    if isinstance(kind, datasets.ClassLabel):
        numbers = np.asarray(found, np.float64)
        if np.isnan(numbers).any() or (numbers < 0).all():
            return None, classes or tuple(kind.names)
        if (numbers < 0).any():
            raise AmcError(f"{where}: {int((numbers < 0).sum())} images have no label")
        return numbers.astype(np.int64), tuple(kind.names)
    values = np.asarray(found)
    if values.dtype.kind not in "iubUOT" or values.ndim != 1:
        raise AmcError(f"{where}: {label} holds {values.dtype}, expected classes or their names")
    words = [str(value) for value in values.tolist()]
    if not classes:
        ordered = np.unique(values) if values.dtype.kind in "iub" else sorted(set(words))
        classes = tuple(str(value) for value in ordered)
    numbers_of = {name: number for number, name in enumerate(classes)}
    if unknown := set(words) - set(classes):
        raise AmcError(f"{where}: the class {min(unknown)!r} is not among those for training")
    return np.array([numbers_of[word] for word in words], np.int64), classes


@contextmanager
def _silent(datasets: Any) -> Iterator[None]:
    """Without progress bars and log lines of its own."""
    from huggingface_hub.utils import logging as hub

    loud = hub.get_verbosity()
    hub.set_verbosity(logging.CRITICAL)
    shown = datasets.utils.logging.get_verbosity()
    bars = datasets.are_progress_bars_disabled()
    datasets.utils.logging.set_verbosity(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        hub.set_verbosity(loud)
        datasets.utils.logging.set_verbosity(shown)
        if not bars:
            datasets.enable_progress_bars()
