"""The scans of digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits as sklearn_digits

from amc.data import load_data, start_epoch
from data_streams import STREAMS, check_streams, everything, rows, same


def test_digits_are_all_scans_in_disjoint_stratified_splits():
    data = load_data("digits")
    check_streams(data)
    assert (data.name, data.num_classes, data.input_shape) == ("digits", 10, (1, 16, 16))
    parts = {name: everything(getattr(data, name)) for name in STREAMS[1:]}
    assert {name: len(labels) for name, (_, labels) in parts.items()} == {
        "calibration": 1257,
        "val": 180,
        "test": 360,
    }
    images = [row for part, _ in parts.values() for row in rows(part)]
    assert len(set(images)) == 1797
    whole = np.bincount(sklearn_digits().target) / 1797
    for _, labels in parts.values():
        assert np.abs(labels.bincount().numpy() - whole * len(labels)).max() <= 1
    pixels = parts["calibration"][0]
    assert abs(float(pixels.mean())) < 0.05 and abs(float(pixels.std()) - 1) < 0.05


def test_digits_splits_ignore_the_seed_and_the_training_order_does_not():
    first, again, other = (load_data("digits", seed=seed) for seed in (1, 1, 2))
    assert same(first.train, again.train)
    assert not same(first.train, other.train)
    for name in STREAMS[1:]:
        assert same(getattr(first, name), getattr(other, name))
    start_epoch(first.train, 1)
    assert not same(first.train, again.train)
