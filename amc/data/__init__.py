"""Images and labels in four streams: training, calibration, reward and report."""

from amc.data.load import load_data
from amc.data.loader import Data, Loader, TensorLoader, slices, start_epoch

__all__ = ["Data", "Loader", "TensorLoader", "load_data", "slices", "start_epoch"]
