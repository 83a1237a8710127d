"""CIFAR from its files, which run no code."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
import torch

from amc.data import load_data
from amc.data.cifar import load_cifar
from amc.data.loader import Batching
from data_streams import Payload, check_streams, everything, refused, rows, same


def python2_pickle(data, key, labels):
    """The batch in the bytes that Python 2 writes, as in the published files."""

    def string(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value):
        return b"J" + struct.pack("<i", value)

    shape = integer(data.shape[0]) + integer(data.shape[1]) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNN" + 2 * integer(-1) + b"K\x00tb"
    state = b"(K\x01" + shape + dtype + b"\x89" + string(data.tobytes()) + b"tb"
    numbers = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + state + string(key) + numbers + b"u."


def batch_file(path, rng, count, classes, key, old=False):
    data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = [i % classes for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if old:
        path.write_bytes(python2_pickle(data, key, labels))
    else:
        path.write_bytes(pickle.dumps({b"data": data, key: labels}, protocol=2))
    return data.reshape(-1, 3, 32, 32), labels


@pytest.fixture
def cifar10(tmp_path):
    """A small CIFAR-10: the folder, and all training and test images."""
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    train = [
        batch_file(folder / f"data_batch_{i}", rng, 40, 10, b"labels", old=i % 2 == 0)[0]
        for i in range(1, 6)
    ]
    test, _ = batch_file(folder / "test_batch", rng, 30, 10, b"labels")
    return folder, np.concatenate(train), test


def test_cifar10_from_its_folder_or_the_parent(cifar10):
    folder, train, test = cifar10
    data = load_cifar("cifar10", folder, Batching(), val_size=50)
    check_streams(data)
    assert (data.name, data.num_classes, data.input_shape) == ("cifar10", 10, (3, 32, 32))
    assert same(data.test, load_cifar("cifar10", folder.parent, Batching(), val_size=50).test)

    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    std = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)

    def originals(loader):
        return (everything(loader)[0] * std + mean).mul(255).round().to(torch.uint8)

    assert torch.equal(originals(data.test), torch.from_numpy(test))
    held, kept = rows(originals(data.val)), rows(originals(data.calibration))
    assert (len(held), len(kept)) == (50, 150)
    assert sorted(held + kept) == sorted(rows(torch.from_numpy(train)))
    assert everything(data.val)[1].bincount().tolist() == [5] * 10
    labels = dict(zip(rows(torch.from_numpy(train)), [i % 10 for i in range(40)] * 5, strict=True))
    assert [labels[row] for row in kept] == everything(data.calibration)[1].tolist()


def test_cifar100_reads_the_fine_labels(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("train", 300), ("test", 100)):
        batch_file(tmp_path / "cifar-100-python" / name, rng, count, 100, b"fine_labels")
    data = load_cifar("cifar100", tmp_path, Batching(), val_size=100)
    check_streams(data)
    assert data.num_classes == 100
    assert everything(data.val)[1].bincount().tolist() == [1] * 100
    spec = f"cifar100:{tmp_path}"
    refused(lambda: load_data(spec), spec, "300 training images", "5000")


def test_cifar_runs_no_code(cifar10, tmp_path):
    folder, _, _ = cifar10
    file, mark = folder / "data_batch_3", tmp_path / "executed"
    good = pickle.loads(file.read_bytes(), encoding="bytes")
    for evil in (Payload(mark), {**good, b"more": [Payload(mark)]}):
        for protocol in (0, 2, 4):
            file.write_bytes(pickle.dumps(evil, protocol=protocol))
            refused(lambda: load_data(f"cifar10:{folder}"), file, "mkdir", "nothing was run")
    for text in (b"c__builtin__\neval\n(S'1'\ntR.", b"cbuiltins\nexec\n(S'1'\ntR."):
        file.write_bytes(text)
        refused(lambda: load_data(f"cifar10:{folder}"), file, "refused")
    file.write_bytes(b"c_codecs\nencode\n(S'abc'\nVrot13\ntR.")
    refused(lambda: load_data(f"cifar10:{folder}"), file, "codec")
    assert not mark.exists()
    file.write_bytes(pickle.dumps(Payload(mark)))
    pickle.loads(file.read_bytes())
    assert mark.exists(), "the payload would have worked"


def test_cifar_names_the_file_that_is_wrong(cifar10, tmp_path):
    folder, _, _ = cifar10
    spec = f"cifar10:{folder}"
    file = folder / "data_batch_2"
    pixels, labels = np.zeros((3, 3072), np.uint8), [0, 1, 2]
    for content, part in (
        ([1, 2], "b'data' is missing"),
        ({b"data": pixels}, "b'labels' is missing"),
        ({b"data": pixels[:, :5], b"labels": labels}, "uint8 [3, 5]"),
        ({b"data": pixels[:0], b"labels": []}, "uint8 [0, 3072]"),
        ({b"data": pixels.astype(np.int32), b"labels": labels}, "int32 [3, 3072]"),
        ({b"data": pixels.tolist(), b"labels": labels}, "expected uint8 [N, 3072]"),
        ({b"data": pixels, b"labels": [0, 1]}, "a list of 2"),
        ({b"data": pixels, b"labels": [0, 1, 10]}, "from 0 to 10"),
        ({b"data": pixels, b"labels": [0, 1, -1]}, "from -1 to 1"),
        ({b"data": pixels, b"labels": [0, 1, None]}, "2 of them integers"),
        ({b"data": pixels, b"labels": None}, "b'labels' is missing"),
        ({b"data": pixels, b"labels": "abc"}, "a str"),
    ):
        file.write_bytes(pickle.dumps(content, protocol=4))
        refused(lambda: load_data(spec), file, part, "expected")
    for content in (b"", b"\x80\x02}", b"plain text", pickle.dumps(labels)[:-3]):
        file.write_bytes(content)
        refused(lambda: load_data(spec), file, "cannot be read", "expected")
    file.unlink()
    refused(lambda: load_data(spec), file, "data_batch_5", "cifar-10-batches-py")
    refused(lambda: load_data(f"cifar100:{tmp_path / 'no'}"), "cifar-100-python", tmp_path / "no")
