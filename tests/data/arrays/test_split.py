"""The order that splits are cut from."""

from __future__ import annotations

import numpy as np

from amc.data.arrays.split import stratified_order


def test_every_stretch_of_the_order_is_stratified():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    order = stratified_order(labels)
    assert sorted(order) == list(range(1000))
    for start in range(0, 1000, 50):
        counts = np.bincount(labels[order[start : start + 50]], minlength=3)
        assert np.abs(counts - [30, 15, 5]).max() <= 1
    assert not np.array_equal(order, stratified_order(labels, seed=1))


def test_the_order_does_not_depend_on_the_numpy_version():
    order = stratified_order(np.arange(12) % 3)
    assert order.tolist() == [4, 11, 6, 10, 2, 9, 1, 8, 3, 7, 5, 0]
