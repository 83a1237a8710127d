"""One order of the samples in which every stretch has all classes in their proportions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stratified_order(labels: NDArray[Any], seed: int = 0) -> NDArray[np.int64]:
    """Order samples so that any consecutive stretch of them is stratified.

    Member k of a shuffled class of n gets the place (k + u) / n in [0, 1), with one random u per
    class; sorting by place spreads each class evenly. To split a data set is then to cut this
    order, and a prefix of a stream in this order is a fair sample of the whole.

    Args:
        labels: [N] class of each sample.
        seed: Chooses the order; splits use a constant, so that they do not follow the run's seed.

    Returns:
        [N] a permutation of the sample indices.
    """
    # RandomState, because NumPy promises its stream forever (NEP 19): a split must be the same
    # under every version, or accuracies measured on it cannot be compared.
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + random.random_sample()) / len(members)
    return np.argsort(place, kind="stable")
