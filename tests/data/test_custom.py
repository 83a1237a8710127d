"""Loaders and data of the user's own."""

from __future__ import annotations

import os
import sys

import pytest

from amc.data import Data, load_data
from amc.runtime.user_code import load_function
from data_streams import check_streams, everything, refused

USER_DATA = """
import torch
from amc.data import TensorLoader, load_data

def stream(*labels):
    return TensorLoader(torch.zeros(len(labels), 3, 8, 8), torch.tensor(labels), batch_size=2)

class Fixed:
    def __init__(self, *batches): self.batches = batches
    def __iter__(self): return iter(self.batches)
    def __len__(self): return len(self.batches)

class Broken(Fixed):
    def __iter__(self): raise OSError("disk gone")

good, images, labels = stream(0), torch.zeros(1, 3, 8, 8), torch.tensor([0])

def three(): return stream(0, 1, 2, 3), stream(0, 1, 2, 4), stream(1)
def four(): return (*three(), stream(2))
def digits(): return load_data("digits")

def number(): return 7
def two(): return good, good
def generator(): return good, (batch for batch in good), good
def empty(): return good, Fixed(), good
def single(): return Fixed(images), good, good
def flat(): return good, Fixed((torch.zeros(1, 8), labels)), good
def doubles(): return good, good, Fixed((images.double(), labels))
def float_labels(): return Fixed((images, labels / 2)), good, good
def negative(): return stream(-1), good, good
def sizes(): return good, Fixed((torch.zeros(1, 3, 9, 9), labels)), good
def fails(): raise RuntimeError("two\\nlines")
def broken(): return Broken(), good, good
"""


@pytest.fixture
def user_file(tmp_path):
    file = tmp_path / "user_data.py"
    file.write_text(USER_DATA)
    return file


def test_own_function_returns_loaders_or_data(user_file, monkeypatch):
    data = load_data(f"{user_file}:three")
    check_streams(Data(**{**vars(data), "train": data.calibration}))
    assert (data.num_classes, data.input_shape) == (5, (3, 8, 8))
    assert data.name == f"{user_file}:three"
    assert data.calibration is data.train
    assert everything(load_data(f"{user_file}:four").calibration)[1].tolist() == [2]
    assert load_data(f"{user_file}:digits").name == "digits"
    monkeypatch.syspath_prepend(user_file.parent)
    assert load_data("user_data:three").num_classes == 5
    sys.modules.pop("user_data")


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("number", ["returned a int", "tuple (train, val, test"]),
        ("two", ["returned a tuple of 2"]),
        ("generator", ["val is a generator", "__len__"]),
        ("empty", ["val yields no batch"]),
        ("single", ["train yields batches of [1, 3, 8, 8] float32"]),
        ("flat", ["val yields ([1, 8] float32, [1] int64"]),
        ("doubles", ["test yields ([1, 3, 8, 8] float64"]),
        ("float_labels", ["train yields", "[1] float32"]),
        ("negative", ["[1] int64 from -1"]),
        ("sizes", ["val has images [3, 9, 9], but train [3, 8, 8]"]),
        ("fails", ["calling it failed with RuntimeError: two lines"]),
        ("broken", ["reading train failed with OSError: disk gone"]),
        ("thre", ["has nothing called thre", "did you mean three?"]),
        ("good", ["not as a function"]),
    ],
)
def test_own_function_that_will_not_do(user_file, function, parts):
    refused(lambda: load_data(f"{user_file}:{function}"), f"{user_file}:{function}", *parts)


def test_load_function(tmp_path, monkeypatch):
    assert load_function("os.path:join") is os.path.join
    file = tmp_path / "json.py"  # a name that a module of Python's own has
    file.write_text("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\n")
    made = load_function(f"{file}:A")
    assert made().x == 1 and load_function(f"{file}:A") is made
    assert load_function("json:dumps")([1]) == "[1]"

    for text, part in (
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import not_installed_at_all", "No module named 'not_installed_at_all'"),
    ):
        file.write_text(text)
        other = tmp_path / f"{abs(hash(text))}.py"
        other.write_text(text)
        refused(lambda path=other: load_function(f"{path}:f"), other, "importing", part)
        assert str(other) not in sys.modules
    refused(lambda: load_function(f"{tmp_path}/no.py:f"), "no such file", "no.py")
    refused(lambda: load_function("no_such_module:f"), "No module named 'no_such_module'")
    for spec in ("os", "os:", ":f", "os:a b"):
        refused(lambda spec=spec: load_function(spec), spec, "package.module:function")
