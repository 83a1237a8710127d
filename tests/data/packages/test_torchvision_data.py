"""Data sets of torchvision, without network."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
import torch

from amc.data import load_data
from amc.data.arrays.preprocessing import Preprocessing
from amc.data.packages.torchvision_data import CIFAR, SETS
from data_streams import Payload, check_streams, everything, refused

datasets = pytest.importorskip("torchvision.datasets", reason="needs amc-pruning[vision]")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_all_that_are_named_exist():
    assert all(hasattr(datasets, name) for name in (*SETS, *CIFAR))


def test_fake_data():
    spec = "torchvision:FakeData?images=60&classes=4&size=16"
    data = load_data(spec)
    check_streams(data)
    assert data.input_shape == (3, 16, 16)
    given = datasets.FakeData(60, (3, 16, 16), 4)
    labels = sorted(int(given[i][1]) for i in range(60))
    found = torch.cat([everything(getattr(data, p))[1] for p in ("train", "val", "test")])
    assert sorted(found.tolist()) == labels
    wanted = Preprocessing(24, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert load_data(spec, preprocessing=wanted).input_shape == (3, 16, 16)  # what is asked for
    assert load_data("torchvision:FakeData?images=40&classes=900&size=8").num_classes == 900
    spec = "torchvision:FakeData?images=60&classes=4"
    assert load_data(spec, preprocessing=wanted).input_shape == (3, 24, 24)


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
                     + array.astype(np.uint8).tobytes())  # fmt: skip


def test_mnist_from_its_files(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 100), ("t10k", 40)):
        raw = tmp_path / "MNIST" / "raw"
        idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    data = load_data(f"torchvision:MNIST?root={tmp_path}")
    check_streams(data)
    assert data.input_shape == (1, 28, 28) and data.num_classes == 10
    sizes = [len(everything(getattr(data, p))[1]) for p in ("train", "val", "test")]
    assert sizes == [90, 10, 40]
    refused(lambda: load_data(f"torchvision:KMNIST?root={tmp_path}"), "cannot be opened",
            "?download=1 fetches it")  # fmt: skip


def test_cifar_runs_nothing(tmp_path):
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name in names:
        batch = {b"data": rng.integers(0, 256, (40, 3072), np.uint8),
                 b"labels": [i % 10 for i in range(40)]}  # fmt: skip
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    spec = f"torchvision:CIFAR10?root={tmp_path}"
    data = load_data(spec)
    check_streams(data)
    assert data.input_shape == (3, 32, 32) and len(everything(data.test)[1]) == 40
    (folder / "data_batch_2").write_bytes(pickle.dumps(Payload(tmp_path / "mark")))
    refused(lambda: load_data(spec), "data_batch_2", "nothing was run")
    assert not (tmp_path / "mark").exists()
    refused(lambda: load_data(f"torchvision:CIFAR10?root={tmp_path / 'no'}"), "?download=1")


def test_what_is_wrong_is_said_in_a_line(tmp_path):
    refused(lambda: load_data("torchvision:Mnist?root=."), "unknown", "did you mean MNIST?")
    refused(lambda: load_data("torchvision:MNIST"), "?root=FOLDER")
    refused(lambda: load_data("torchvision:MNIST?root=.&colour=1"), "no setting 'colour'", "root")
    refused(lambda: load_data("torchvision:FakeData?transform=1"), "no setting 'transform'")
