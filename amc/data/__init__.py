"""Images and labels in four streams: training, calibration, reward and report."""

from amc.data.checked import unchecked, with_classes
from amc.data.custom import from_loaders
from amc.data.load import load_data
from amc.data.loader import Data, Loader, TensorLoader, images_in, slices, start_epoch

__all__ = [
    "Data",
    "Loader",
    "TensorLoader",
    "from_loaders",
    "images_in",
    "load_data",
    "slices",
    "start_epoch",
    "unchecked",
    "with_classes",
]
