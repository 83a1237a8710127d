"""The data sets by the names a user gives them."""

from __future__ import annotations

from dataclasses import replace

from amc.data.arrays.preprocessing import Preprocessing
from amc.data.cifar import load_cifar
from amc.data.custom import load_custom
from amc.data.digits import load_digits
from amc.data.folder import load_folder
from amc.data.glyphs import load_glyphs
from amc.data.idx import load_idx
from amc.data.installed import load_installed
from amc.data.loader import Batching, Data
from amc.runtime.files import expanded
from amc.runtime.names import data_form, folder_settings, idx_settings, picture_settings


def load_data(
    spec: str,
    *,
    seed: int = 0,
    batch_size: int = 64,
    eval_batch_size: int = 256,
    image_size: int | None = None,
    workers: int = 0,
    labelled: bool = True,
    preprocessing: Preprocessing | None = None,
) -> Data:
    """Load the data set that `spec` names.

    Args:
        spec: One of `amc.runtime.names.FORMS`.
        seed: Orders and augments the training stream. What is in which split never depends on it.
        batch_size: Images per batch of the training stream.
        eval_batch_size: Images per batch of the other three.
        image_size: Height and width in pixels of an image folder's images, if `spec` has none.
        workers: Processes that decode image files; 0 decodes in this process.
        labelled: Targets are labels of classes; if not, a function of the user's own may yield
            any targets.
        preprocessing: What the network expects of images that are decoded, where it says so.

    A function of the user's own chooses its batches itself; for it, all but `spec` is ignored.

    Raises:
        AmcError: No such form, or what it names cannot be used; the message says what can.
    """
    kind, rest = data_form(spec)
    batching = Batching(seed, batch_size, eval_batch_size)
    if kind == "function":
        return load_custom(spec, labelled)
    if kind == "digits":
        return load_digits(batching)
    if kind == "glyphs":
        return load_glyphs(batching)
    if kind == "idx":
        return load_idx(idx_settings(rest), batching)
    if kind in ("hf", "torchvision"):
        return load_installed(kind, picture_settings(spec, workers), batching, preprocessing)
    if kind != "imagefolder":
        return load_cifar(kind, expanded(rest), batching)
    usual = preprocessing or Preprocessing()
    given = folder_settings(rest, image_size or usual.side, workers, usual.crop)
    shown = replace(usual, side=given.side, crop=given.crop)
    return load_folder(given.path, batching, shown, workers=given.workers)
