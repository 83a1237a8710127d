"""The data sets by the names a user gives them."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from amc.data.cifar import load_cifar
from amc.data.custom import load_custom
from amc.data.digits import load_digits
from amc.data.folder import load_folder
from amc.data.glyphs import load_glyphs
from amc.data.loader import Batching, Data
from amc.errors import AmcError

FORMS = (
    "digits",
    "glyphs",
    "cifar10:/path",
    "cifar100:/path",
    "imagefolder:/path[?size=pixels&crop=part&workers=processes]",
    "package.module:function",
    "path/to/file.py:function",
)
_KINDS = ("digits", "glyphs", "cifar10", "cifar100", "imagefolder")


def load_data(
    spec: str,
    *,
    seed: int = 0,
    batch_size: int = 64,
    eval_batch_size: int = 256,
    image_size: int = 224,
    workers: int = 0,
    labelled: bool = True,
) -> Data:
    """Load the data set that `spec` names.

    Args:
        spec: One of `FORMS`.
        seed: Orders and augments the training stream. What is in which split never depends on it.
        batch_size: Images per batch of the training stream.
        eval_batch_size: Images per batch of the other three.
        image_size: Height and width in pixels of an image folder's images, if `spec` has none.
        workers: Processes that decode an image folder's files; 0 decodes in this process.
        labelled: Targets are labels of classes; if not, a function of the user's own may yield
            any targets.

    A function of the user's own chooses its batches itself; for it, all but `spec` is ignored.

    Raises:
        AmcError: No such form, or what it names cannot be used; the message says what can.
    """
    batching = Batching(seed, batch_size, eval_batch_size)
    kind, colon, rest = spec.partition(":")
    if spec == "digits":
        return load_digits(batching)
    if spec == "glyphs":
        return load_glyphs(batching)
    if kind in ("cifar10", "cifar100") and rest:
        return load_cifar(kind, Path(rest).expanduser(), batching)
    if kind == "imagefolder" and rest:
        path, side, crop, processes = _image_folder(rest, image_size, workers)
        return load_folder(path, batching, side=side, crop=crop, workers=processes)
    if kind not in _KINDS and colon and rest.rpartition(":")[2].isidentifier():
        return load_custom(spec, labelled)
    near = get_close_matches(kind, _KINDS, n=1)
    form = next((form for form in FORMS if near and form.partition(":")[0] == near[0]), None)
    hint = f"; did you mean {form}?" if form else ""
    raise AmcError(f"data {spec!r}: unknown, expected one of {', '.join(FORMS)}{hint}")


def _image_folder(rest: str, side: int, workers: int) -> tuple[Path, int, float, int]:
    """Path, image size, central part and workers of `/path` or `/path?size=64&crop=0.875`."""
    path, question, query = rest.partition("?")
    given: dict[str, float] = {"size": side, "crop": 1.0, "workers": workers}
    for setting in query.split("&") if question else ():
        match = re.fullmatch(r"(size|workers)=(\d{1,5})|(crop)=(\d*\.?\d+)", setting)
        if match is None:
            raise AmcError(
                f"imagefolder:{rest}: {setting!r} given, expected size=pixels, crop=part or "
                "workers=processes"
            )
        name, value = (word for word in match.groups() if word is not None)
        given[name] = float(value)
    if given["size"] < 1:
        raise AmcError(
            f"imagefolder:{rest}: image size {given['size']:g} given, must be at least 1"
        )
    if not 0 < given["crop"] <= 1:
        raise AmcError(f"imagefolder:{rest}: crop {given['crop']:g} given, must be in (0, 1]")
    folder = Path(path).expanduser()
    return folder, int(given["size"]), given["crop"], int(given["workers"])
