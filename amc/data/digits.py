"""Real handwritten digits that come with scikit-learn: the data set that needs no download."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from amc.data.arrays.augment import random_shift
from amc.data.arrays.preprocessing import Normalise
from amc.data.arrays.split import stratified_order
from amc.data.loader import Batching, Data, Split, from_tensors

# 1,797 scans in all; what is left after these two, 1,257, is for training.
TEST_SIZE, VAL_SIZE = 360, 180
SIDE = 16  # twice the scans' own, so that a network can halve the image twice and still see it
NORMALISE: Normalise = ((0.305,), (0.32,))


def load_digits(batching: Batching) -> Data:
    """The 1,797 scans, enlarged to 16x16 pixels of one channel, in fixed stratified splits."""
    # Imported here: it takes longer than everything else that a look at other data needs.
    from sklearn.datasets import load_digits as sklearn_digits

    source = sklearn_digits()
    scans = torch.from_numpy(np.asarray(source.images, dtype=np.float32) / 16)[:, None]
    images = functional.interpolate(scans, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(np.asarray(source.target, dtype=np.int64))

    order = torch.from_numpy(stratified_order(source.target))
    test, val, train = order.tensor_split([TEST_SIZE, TEST_SIZE + VAL_SIZE])
    return from_tensors(
        "digits",
        *(Split(images[rows], labels[rows]) for rows in (train, val, test)),
        num_classes=10,
        augment=random_shift(1),
        normalise=NORMALISE,
        batching=batching,
    )
