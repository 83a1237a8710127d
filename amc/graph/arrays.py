"""Types of numpy arrays."""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


FloatArray = npt.NDArray[np.float64]
