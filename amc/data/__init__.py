"""Images and labels in four streams: training, calibration, reward and report."""

from amc.data.custom import from_loaders
from amc.data.load import load_data
from amc.data.loader import Data, Loader, TensorLoader, slices, start_epoch
from amc.data.watched import settled, unread

__all__ = [
    "Data",
    "Loader",
    "TensorLoader",
    "from_loaders",
    "load_data",
    "settled",
    "slices",
    "start_epoch",
    "unread",
]
