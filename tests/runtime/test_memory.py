"""A limit on memory: how it is written, where tensors go, and that it changes no result."""

import gc
import os
import platform
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import amc
from amc.calibration.calibrate import calibrate, calibrated_layers
from amc.calibration.on_disk import TensorFile
from amc.calibration.passes import Shelf, passes, statistics_bytes
from amc.calibration.statistics import Sampling
from amc.config.command_line import parse
from amc.config.train import TrainConfig
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.catalog import build
from amc.reconstruction.compressor import Compressor, Memo
from amc.reconstruction.layer_by_layer import compress
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.runtime.errors import AmcError
from amc.runtime.memory import as_size, parse_bytes, share
from amc.train import run

NETWORK = """
import torch
from torch import nn

def net(num_classes, in_channels):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.ReLU(),
        nn.Conv2d(12, 16, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
        nn.Linear(16, num_classes))
"""

IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BATCHES = [(x, torch.zeros(len(x))) for x in IMAGES.split(8)]
SAMPLING = Sampling(5)


@pytest.fixture(scope="module")
def network() -> tuple[torch.nn.Module, amc.ChannelGraph]:
    torch.manual_seed(0)
    model = build("resnet20", num_classes=10, in_channels=3, width=0.5).eval()
    return model, amc.trace(model, (IMAGES[:2],))


@pytest.mark.parametrize(
    ("text", "count"),
    [("4GB", 4 * 10**9), ("500MB", 5 * 10**8), ("1.5gb", 15 * 10**8), (" 20 KB", 20_000)],
)
def test_sizes_are_read_as_they_are_written(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["4", "GB", "-1GB", "0GB", "4 gigabytes", "1e3MB", "nan GB", ""])
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(AmcError, match="expected a size such as 4GB or 500MB") as raised:
        TrainConfig.of(memory=text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 999_949, 10**6 + 1, 123_456_789, 10**12])
def test_a_size_that_is_told_is_enough(count: int) -> None:
    assert parse_bytes(as_size(count)) >= count
    assert parse_bytes(as_size(count)) <= max(1.01 * count, 10)


def test_the_flag_is_one_of_every_command() -> None:
    config = parse(TrainConfig, "amc.train", ["--memory", "4GB"])
    assert config.machine.memory_bytes == 4 * 10**9
    assert TrainConfig().machine.memory_bytes is None


def test_shares_never_exceed_what_is_usual() -> None:
    assert share(None, 0.25, 1000) == 1000
    assert share(800, 0.25, 1000) == 200
    assert share(8000, 0.25, 1000) == 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(3, 1000, 7), (1,), (0, 4), ()])
def test_tensors_come_back_from_the_file(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    file = TensorFile()
    given = [torch.randn(shape).mul(100).to(dtype) for _ in range(3)]
    places = [file.append(t) for t in given]
    for tensor, place in zip(given, places, strict=True):
        found = file.read(place)
        assert found.dtype == dtype and torch.equal(found, tensor)
        found.add_(1)
        assert torch.equal(file.read(place), tensor)  # the file stays as it is


def test_tensors_outlive_the_file_and_the_file_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    file, given = TensorFile(), torch.randn(10_000)
    found = file.read(file.append(given.mT if given.ndim > 1 else given))
    assert os.listdir(tmp_path) == []  # nothing stays behind, however the process ends
    del file
    gc.collect()
    assert torch.equal(found, given)


def test_statistics_are_predicted_to_the_byte(
    network: tuple[torch.nn.Module, amc.ChannelGraph],
) -> None:
    model, graph = network
    stats = calibrate(graph, model, BATCHES, SAMPLING)
    for layer in calibrated_layers(graph):
        held = stats[layer.name]
        taken = sum(t.nbytes for t in (held.xx, held.xy, held.yy))
        assert statistics_bytes(graph, layer) == taken


def test_a_pass_takes_as_many_layers_as_fit_in_execution_order(
    network: tuple[torch.nn.Module, amc.ChannelGraph],
) -> None:
    _, graph = network
    layers = calibrated_layers(graph)
    sizes = {layer.name: statistics_bytes(graph, layer) for layer in layers}
    assert passes(graph, layers, None) == [layers]
    for limit in (max(sizes.values()), 2 * max(sizes.values()), sum(sizes.values())):
        found = passes(graph, layers, limit)
        assert [layer for some in found for layer in some] == list(layers)
        taken = [sum(sizes[layer.name] for layer in some) for some in found]
        assert max(taken) <= limit
        for this, after in zip(taken, found[1:], strict=False):
            assert this + sizes[after[0].name] > limit
    assert len(found) == 1


def test_a_layer_that_does_not_fit_is_named_with_what_it_needs(
    network: tuple[torch.nn.Module, amc.ChannelGraph],
) -> None:
    _, graph = network
    layers = calibrated_layers(graph)
    widest = max(layers, key=lambda layer: statistics_bytes(graph, layer))
    with pytest.raises(AmcError) as raised:
        passes(graph, layers, 10_000)
    said = str(raised.value)
    assert said.startswith(f"--memory 10KB: the statistics of {widest.name} alone take ")
    least = parse_bytes(said.rsplit(" ", 1)[1])
    assert len(passes(graph, layers, least)) > 1


class Counted:
    """Batches that know how often somebody went through them, and how far."""

    def __init__(self) -> None:
        self.seen = 0

    def __iter__(self) -> "Counted":
        self._rest = iter(BATCHES)
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        batch = next(self._rest)
        self.seen += 1
        return batch


@pytest.mark.parametrize("selector", ["lasso", "obs"])
def test_results_are_the_same_with_and_without_a_limit(
    network: tuple[torch.nn.Module, amc.ChannelGraph], selector: str
) -> None:
    model, graph = network
    layers = calibrated_layers(graph)
    limit = max(statistics_bytes(graph, layer) for layer in layers)
    plain, batches = calibrate(graph, model, BATCHES, SAMPLING), Counted()
    bounded = calibrate(graph, model, batches, SAMPLING, memory=limit)
    assert isinstance(plain, dict) and isinstance(bounded, Shelf)
    assert batches.seen == len(BATCHES) * len(passes(graph, layers, limit)) > len(BATCHES)
    assert list(bounded) == list(plain) and len(bounded) == len(plain)
    for name, one in plain.items():
        other = bounded[name]
        assert torch.equal(one.xx, other.xx) and torch.equal(one.xy, other.xy)
        assert torch.equal(one.yy, other.yy) and one.rows == other.rows
    small = []
    for stats, memory in ((plain, None), (bounded, limit)):
        compressor = Compressor(
            graph,
            model,
            stats,
            partial(selection_of, METRICS[selector], Evidence(graph, model, stats)),
            memory=memory,
        )
        strategy = {name: max(1, size // 2) for name, size in graph.sizes.items()}
        originals = OriginalOutputs(graph, model, BATCHES, SAMPLING, memory)
        plan = compressor.plan(strategy)
        small += [compressor.cut(strategy), compress(compressor, plan, originals, adapt=True)]
    for a, b in ((small[0], small[2]), (small[1], small[3])):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_statistics_that_take_little_of_the_limit_stay_in_memory(
    network: tuple[torch.nn.Module, amc.ChannelGraph],
) -> None:
    model, graph = network
    total = sum(statistics_bytes(graph, layer) for layer in calibrated_layers(graph))
    assert isinstance(calibrate(graph, model, BATCHES, SAMPLING, memory=4 * total), dict)
    assert isinstance(calibrate(graph, model, BATCHES, SAMPLING, memory=2 * total), Shelf)


def test_no_images_are_noticed_under_a_limit_too(
    network: tuple[torch.nn.Module, amc.ChannelGraph],
) -> None:
    model, graph = network
    with pytest.raises(AmcError, match="yields no images"):
        calibrate(graph, model, [], SAMPLING, memory=10**6)


def test_solutions_obey_the_limit() -> None:
    memo = Memo(8 * 100)
    for number in range(10):
        memo[(number,)] = torch.zeros(10)  # 40 bytes of 100
        assert sum(t.nbytes for t in memo.values()) <= 100


def test_a_run_under_a_limit_ends_with_the_same_network(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    found = []
    for memory in (None, "30KB"):
        config = TrainConfig.of(
            model=f"{tmp_path / 'net.py'}:net",
            episodes=4,
            finetune_epochs=0,
            calibration_batches=3,
            finalists=2,
            memory=memory,
            run_dir=tmp_path / str(memory),
            quiet=True,
        )
        folder = run(config)
        found.append(
            [(folder / name).read_bytes() for name in ("strategy.json", "pruned.safetensors")]
        )
    assert found[0] == found[1]


def test_an_impossible_limit_ends_a_run_before_anything_long(tmp_path: Path) -> None:
    config = TrainConfig.of(memory="100KB", run_dir=tmp_path / "x", quiet=True)
    with pytest.raises(AmcError, match=r"^--memory 100KB: the statistics of \S+ alone take "):
        run(config)


def test_freed_memory_stays_with_the_process() -> None:
    script = (
        "import resource, torch; from amc.runtime.memory import keep_freed\n"
        "def use(): held = [torch.ones(5 << 20) for _ in range(4)]\n"
        "{}; use(); use()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "use(); use()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    usual, *kept = (
        int(subprocess.check_output([sys.executable, "-c", script.format(how)], text=True))
        for how in ("pass", *["keep_freed()"] * 3)
    )
    if platform.libc_ver()[0] == "glibc":  # chance may leave the heap no addresses to grow into
        assert min(kept) < usual
