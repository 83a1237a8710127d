"""Loaders of the user's own: whatever is wrong with them is one line, before anything long."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from amc.config.inspect import InspectConfig
from amc.config.sections.job import DataConfig
from amc.config.train import TrainConfig
from amc.data import Data, load_data, unchecked, with_classes
from amc.data.checked import CheckedLoader
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError
from amc.runtime.user_code import load_object
from amc.steps.job import open_data, open_job
from amc.steps.setup import build_network, load_network, trace_network
from amc.tasks.task import CLASSIFICATION
from amc.train import run

Batch = tuple[Any, Any]


class Stream:
    """Batches of a list; what is no batch is raised or called instead."""

    def __init__(self, *batches: Any, promised: int | None = None) -> None:
        self.batches, self.promised, self.passes = batches, promised, 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        for batch in self.batches:
            if isinstance(batch, BaseException):
                raise batch
            yield batch() if callable(batch) else batch

    def __len__(self) -> int:
        return len(self.batches) if self.promised is None else self.promised


class Once(Stream):
    """All passes share one iterator."""

    def __init__(self, *batches: Any) -> None:
        super().__init__(*batches)
        self.rest = iter(batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.rest


class Worn(Stream):
    """Only the first few passes give anything."""

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return iter(self.batches if self.passes < 3 else ())


def batch(*labels: int, size: tuple[int, ...] = (1, 8, 8)) -> Batch:
    return torch.ones(len(labels), *size), torch.tensor(labels)


def good() -> Stream:
    return Stream(batch(0, 1), batch(1, 0), batch(1, 1))


def nan() -> Batch:
    images, labels = batch(0, 1)
    images[1, 0, 3, 3] = torch.nan
    return images, labels


def infinite() -> Batch:
    return batch(0, 1)[0] / 0, batch(0, 1)[1]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Data]:
    """What a run makes of data that a function of the user's returns."""

    def check(made: Any, task: Any = CLASSIFICATION) -> Data:
        module = type(sys)("own_data")
        module.make = (lambda: made) if not callable(made) else made  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "own_data", module)
        return open_data(DataConfig("own_data:make"), task, Terminal(quiet=True))

    return check


def inference(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


def refusal(made: Any, checked: Callable[..., Data]) -> str:
    before = torch.is_grad_enabled()
    with pytest.raises(AmcError) as refused:
        checked(made)
    line = str(refused.value)
    assert line.startswith("own_data:make: ") and "\n" not in line and len(line) < 400
    assert torch.is_grad_enabled() == before
    return line.removeprefix("own_data:make: ")


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "nan": (lambda: Stream(batch(0), nan()), "batch 2 of 2: images hold NaN"),
    "infinity": (lambda: Stream(batch(0), infinite()), "batch 2 of 2: images hold NaN"),
    "inference": (
        lambda: Stream(batch(0), tuple(map(inference, batch(0)))),
        "batch 2 of 2 is made in inference mode",
    ),
    "negative": (lambda: Stream(batch(0), batch(-1)), "batch 2 of 2 has the label -1"),
    "ignored": (lambda: Stream(batch(0), batch(-100)), "has the label -100"),
    "floats": (
        lambda: Stream(batch(0), (batch(0)[0], torch.zeros(1))),
        "batch 2 of 2 has labels [1] float32 from 0, expected [B] int64",
    ),
    "one-hot": (
        lambda: Stream(batch(0), (batch(0)[0], torch.ones(1, 2).long())),
        "has labels [1, 2] int64",
    ),
    "sizes": (
        lambda: Stream(batch(0), batch(0, size=(1, 9, 9))),
        "batch 2 of 2 has images [1, 1, 9, 9] float32, the first one [B, 1, 8, 8] float32",
    ),
    "channels": (lambda: Stream(batch(0), batch(0, size=(3, 8, 8))), "has images [1, 3, 8, 8]"),
    "types": (
        lambda: Stream(batch(0), (batch(0)[0].double(), batch(0)[1])),
        "has images [1, 1, 8, 8] float64",
    ),
    "unlike": (
        lambda: Stream(batch(0), (batch(0, 0)[0], batch(0)[1])),
        "has inputs [2, 1, 8, 8] float32 and targets [1] int64",
    ),
    "nothing": (lambda: Stream(batch(0), batch()), "batch 2 of 2"),
    "meta": (lambda: Stream(batch(0), (batch(0)[0].to("meta"), batch(0)[1])), "another make"),
    "sparse": (lambda: Stream(batch(0), (batch(0)[0].to_sparse(), batch(0)[1])), "another make"),
    "triple": (lambda: Stream(batch(0), (*batch(0), 1)), "the first one was (inputs, targets)"),
    "none": (lambda: Stream(batch(0), None), "batch 2 of 2 is NoneType"),
    "text": (lambda: Stream(batch(0), ("images", batch(0)[1])), "of another make"),
    "raises": (
        lambda: Stream(batch(0), OSError("disk\ngone")),
        "batch 2 of 2, cannot be read: OSError: disk gone",
    ),
    "exits": (
        lambda: Stream(batch(0), SystemExit(4)),
        "batch 2 of 2, cannot be read: SystemExit: 4",
    ),
    "short": (lambda: Stream(batch(0), batch(0), promised=5), "ends after 2 of 5 batches"),
    "long": (
        lambda: Stream(batch(0), batch(0), promised=1),
        "gives more batches than its length, 1",
    ),
    "empty": (lambda: Stream(batch(0), promised=0), "is empty"),
    "once": (lambda: Once(batch(0), batch(0)), "every pass"),
    "iterator": (lambda: iter([batch(0)]), "a list_iterator, expected a loader"),
    "worn": (lambda: Worn(batch(0), batch(0)), "every pass"),
}
NAMES = ("train", "val", "test", "calibration")


@pytest.mark.parametrize("which", range(4), ids=NAMES)
@pytest.mark.parametrize(("make", "said"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_with_a_stream_is_one_line(
    make: Callable[[], Any], said: str, which: int, checked: Callable[..., Data]
) -> None:
    streams = [good(), good(), good(), good()]
    streams[which] = make()
    if which in (0, 2) and isinstance(streams[which], Stream):
        if said.endswith("8, 8] float32") and "9, 9" in said:
            checked(tuple(streams))  # sizes may change where batches are not joined
            return
    line = refusal(tuple(streams), checked)
    assert said in line and line.startswith(NAMES[which])
    if which < 3:  # the same as the fields of a Data
        streams[which] = make()
        line = refusal(Data("own", *streams_of(streams), 2, (1, 8, 8)), checked)
        assert said in line and line.startswith(NAMES[which])


def streams_of(streams: list[Any]) -> tuple[Any, Any, Any, Any]:
    """In the order of `Data`."""
    train, val, test, calibration = streams
    return train, calibration, val, test


@pytest.mark.parametrize("which", range(3), ids=NAMES[:3])
def test_labels_outside_of_the_classes_that_were_named(
    which: int, checked: Callable[..., Data]
) -> None:
    streams = [good(), good(), good(), good()]
    streams[which] = Stream(batch(0), batch(7))
    line = refusal(Data("own", *streams_of(streams), 2, (1, 8, 8)), checked)
    assert line == f"{NAMES[which]}, batch 2 of 2 has the label 7, expected 0 to 1"


def test_classes_are_counted_over_all_labels(checked: Callable[..., Data]) -> None:
    assert checked((good(), good(), good())).num_classes == 2
    assert checked((Stream(batch(0), batch(6)), good(), good())).num_classes == 7
    assert checked((good(), good(), Stream(batch(0), batch(4)))).num_classes == 5
    assert checked(Data("own", good(), good(), good(), good(), 0, (1, 8, 8))).num_classes == 2
    assert checked(Data("own", good(), good(), good(), good(), 9, (1, 8, 8))).num_classes == 9


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ((-1, (1, 8, 8)), "num_classes is -1"),
        (("2", (1, 8, 8)), "num_classes is '2'"),
        ((2, (3, 8, 8)), "input_shape is [3, 8, 8], but train has images [1, 8, 8]"),
        ((2, "1x8x8"), "input_shape is 1x8x8"),
    ],
)
def test_what_a_data_says_of_itself(
    facts: tuple[Any, Any], said: str, checked: Callable[..., Data]
) -> None:
    assert said in refusal(Data("own", good(), good(), good(), good(), *facts), checked)


def test_every_stream_is_read_once_and_no_more(checked: Callable[..., Data]) -> None:
    streams = [good(), good(), good(), good()]
    data = checked(tuple(streams))
    # a look at the first batch, the pass over all, and a look whether there is another
    assert [one.passes for one in streams] == [3, 3, 3, 3]
    assert unchecked(data) == [] and with_classes(data) == data


class Apart(Dataset[Any]):
    """Labels apart from images, as torchvision has them; counts what is read."""

    def __init__(self, labels: list[int]) -> None:
        self.targets, self.read = labels, 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        return torch.ones(1, 8, 8), self.targets[index]


def test_labels_that_are_apart_are_looked_at_without_images(
    checked: Callable[..., Data],
) -> None:
    dataset = Apart([0, 1] * 20)
    data = checked((DataLoader(dataset, batch_size=2), good(), good()))
    assert dataset.read == 2 and data.num_classes == 2  # the first batch
    some = Apart([0, 9] * 20)
    loader = DataLoader(Subset(some, range(0, 40, 2)), batch_size=2)
    assert checked((loader, good(), good())).num_classes == 2 and some.read == 2
    loader = DataLoader(Apart([0, 1, 0, 7]), batch_size=2)
    wrong = Data("own", loader, good(), good(), good(), 2, (1, 8, 8))
    assert refusal(wrong, checked) == "train, batch 2 of 2 has the label 7, expected 0 to 1"


def test_tensors_in_memory_are_looked_at_at_once(checked: Callable[..., Data]) -> None:
    images, labels = torch.ones(40, 1, 8, 8), torch.arange(40) % 4
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    assert checked((loader, good(), good())).num_classes == 4
    images[30, 0, 0, 0] = torch.nan
    assert refusal((loader, good(), good()), checked).startswith("train, batch 8 of 10: images")


def test_a_loader_may_vouch_for_itself(checked: Callable[..., Data]) -> None:
    stream = Stream(batch(0), nan())
    stream.checked = True  # type: ignore[attr-defined]
    data = checked((stream, good(), good()))
    assert stream.passes == 1
    with pytest.raises(AmcError, match="train, batch 2 of 2: images hold NaN"):
        list(data.train)  # when it comes to it


def test_loaders_without_a_length(checked: Callable[..., Data]) -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Batch]:
            return iter([batch(0)[0][0]] * 3)

    class Ours(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([(torch.ones(1, 8, 8), 0)] * 3)

    line = refusal((DataLoader(Ours(), batch_size=1), good(), good()), checked)
    assert line.startswith("train has no length: TypeError")


def test_a_look_changes_no_random_number(checked: Callable[..., Data]) -> None:
    def loaders() -> tuple[Any, ...]:
        tensors = [(torch.ones(1, 8, 8), k % 2) for k in range(20)]
        shuffled = torch.Generator().manual_seed(3)
        train: Any = DataLoader(tensors, batch_size=4, shuffle=True, generator=shuffled)  # type: ignore[arg-type]
        return train, good(), good()

    def drawn(data: Data) -> tuple[Any, ...]:
        own: Any = data.train
        return torch.rand(3).tolist(), random.random(), np.random.rand(), own.generator.get_state()

    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    looked = checked(loaders)
    assert unchecked(looked) == []
    first = drawn(looked)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    second = drawn(load_data("own_data:make"))
    assert first[:3] == second[:3] and torch.equal(first[3], second[3])


def test_attributes_are_those_of_the_loader(checked: Callable[..., Data]) -> None:
    stream = good()
    stream.fixed, stream.epochs = True, []  # type: ignore[attr-defined]
    stream.set_epoch = stream.epochs.append  # type: ignore[attr-defined]
    train: Any = checked((stream, good(), good())).train
    train.set_epoch(4)
    assert isinstance(train, CheckedLoader) and train.fixed and stream.epochs == [4]  # type: ignore[attr-defined]
    assert not hasattr(train, "absent") and len(train) == 3


def test_modes_that_a_loader_leaves_changed_are_put_back(checked: Callable[..., Data]) -> None:
    def off() -> Batch:
        made = batch(0)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return made

    streams = good(), Stream(batch(0), off), good()

    def make() -> tuple[Any, ...]:
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        return streams

    data = checked(make)
    assert all(torch.is_grad_enabled() for _ in data.val) and torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32 and torch.ones(1).device.type == "cpu"


def test_inputs_of_other_tasks_may_be_anything_but_nan(checked: Callable[..., Data]) -> None:
    def stream(value: float) -> Stream:
        masked = {"image": torch.ones(2, 3), "mask": torch.full((2, 4), value)}
        return Stream((masked, torch.ones(2, 5)), (masked, torch.full((2, 5), torch.nan)))

    task: Any = type("Task", (), {"classifies": False})
    assert checked((stream(-torch.inf), stream(0), stream(0)), task).num_classes == 0
    with pytest.raises(AmcError, match="val, batch 1 of 2: images hold NaN"):
        checked((stream(0), stream(torch.nan), stream(0)), task)


NET = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self, outputs=2):
        super().__init__()
        self.conv, self.more = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, outputs)
    def forward(self, x):
        x = self.more(self.conv(x).relu()).relu()
        {line}
        return self.head(x.mean((2, 3)))

def net():
    torch.manual_seed(0)
    return Net()

def ten():
    torch.manual_seed(0)
    return Net(10)

def flat():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(),
                         nn.Linear(8 * 16, 2))

class Several:
    def __iter__(self):
        yield torch.ones(4, 1, 8, 8), torch.tensor([0, 1, 1, 0])
        yield torch.ones(4, 1, 9, 9), torch.tensor([0, 1, 1, 0])
    def __len__(self):
        return 2

def loaders():
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    images = torch.randn(64, 1, 8, 8) + labels[:, None, None, None]
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    return loader, loader, loader

def sizes():
    train, val, test = loaders()
    return train, val, Several()
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(NET.format(line="pass"))
    return tmp_path / "own.py"


def short(own: Path, **more: Any) -> TrainConfig:
    given = {"model": f"{own}:net", "data": f"{own}:loaders", "mode": "uniform"}
    few = {"finetune_epochs": 1, "calibration_batches": 2, "run_dir": own.parent / "run"}
    return TrainConfig.of(**{**given, **few, **more})


def prepared(config: TrainConfig) -> None:
    job = open_job(config.but(device="cpu"), Terminal(quiet=False))
    given = build_network(job, config.network)
    graph = trace_network(job, given, config.restrictions)
    load_network(job, given, graph, config.network, config.data)


def test_an_untrained_network_and_one_of_too_many_outputs_are_warned_of(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(short(own))
    said = " ".join(capsys.readouterr().out.split())
    assert "warning the network is right on 50.0% of the validation images, as by chance" in said
    assert " outputs, but" not in said
    prepared(short(own, model=f"{own}:ten"))
    said = " ".join(capsys.readouterr().out.split())
    assert "warning the network has 10 outputs, but" in said and "has only 2 classes" in said
    state = own.parent / "net.pt"
    torch.save(load_object(f"{own}:net")().state_dict(), state)
    prepared(short(own, checkpoint=state))  # its owner has said that these are its weights
    assert "warning" not in capsys.readouterr().out


def test_a_network_that_cannot_take_a_batch_is_named(own: Path) -> None:
    with pytest.raises(AmcError) as refused:
        run(short(own, model=f"{own}:flat", data=f"{own}:sizes"))
    line = str(refused.value)
    assert line.startswith("the network fails on inputs 1x9x9: RuntimeError: ")
    assert "\n" not in line


def test_gradients_that_forward_turns_off_for_good_are_on_again(own: Path) -> None:
    own.write_text(NET.format(line="torch.set_grad_enabled(False)"))
    with pytest.raises(AmcError, match="gradient") as refused:
        run(short(own))
    assert "\n" not in str(refused.value) and torch.is_grad_enabled()


def test_inspect_reads_no_more_of_the_data_than_it_needs(checked: Callable[..., Data]) -> None:
    train = good()
    checked((train, good(), good()))
    train.passes = 0
    load_data(InspectConfig.of(data="own_data:make").data or "")
    assert train.passes == 1


class Listed(Dataset[Any]):
    """Images of three classes, whose labels can be had without reading any."""

    def __init__(self, targets: Any = (0, 1, 2)) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(1, 8, 8), (0, 1, 2)[index]


WRONG_ROWS: dict[str, tuple[Any, str]] = {
    "beyond": ([0, 3], "IndexError"),
    "before": ([0, -4], "IndexError"),
    "words": (["a", "b"], "TypeError"),
    "halves": ([0.5, 1.0], "(Type|Index)Error"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_a_subset_of_samples_that_there_are_not_is_one_line(name: str) -> None:
    rows, kind = WRONG_ROWS[name]
    for dataset in (Listed(), TensorDataset(torch.zeros(3, 1, 8, 8), torch.arange(3))):
        loader = DataLoader(Subset(dataset, rows), 1)
        stream = CheckedLoader(loader, "own: train", batch(0), labelled=True)
        assert not stream.vouched
        with pytest.raises(AmcError, match=rf"own: train, batch \d of 2, cannot be read: {kind}"):
            stream.read_through()


def test_labels_of_another_length_are_not_those_of_the_images() -> None:
    stream = CheckedLoader(DataLoader(Listed([0, 1]), 1), "own: train", batch(0), labelled=True)
    assert not stream.vouched
    stream.read_through()
    assert stream.highest == 2
    assert CheckedLoader(DataLoader(Listed(), 1), "own: train", batch(0), labelled=True).vouched
