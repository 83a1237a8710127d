"""Several processes give what one gives; one that is killed ends the job."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import distributed_job
from amc.config.command_line import parse
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.data.arrays.preprocessing import Preprocessing
from amc.data.images import Files, ImageLoader
from amc.models.catalog import build
from amc.runtime import launch
from amc.runtime.errors import AmcError
from amc.train import run
from amc.training.trainer import Recipe, train
from distributed_job import everything

pytestmark = [
    pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed"),
    pytest.mark.skipif(os.name != "posix", reason="processes are stopped by signals"),
]

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2")

NETWORK = """
import os, time
from pathlib import Path
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, num_classes))

def reward(outcome):
    if "PIDS" in os.environ:  # to be killed by, which must not be too late
        mine = Path(os.environ["PIDS"]) / os.environ["RANK"]
        if not mine.exists():
            mine.write_text(str(os.getpid()))
        time.sleep(0.5)
    return -outcome.score.divergence
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run of a second or two."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "net.py").write_text(NETWORK)
    torch.manual_seed(0)
    model = build(f"{folder / 'net.py'}:net", num_classes=10, in_channels=1)
    train(model, load_data("digits").train, Recipe(4, 0.1))
    save_file(model.state_dict(), folder / "net.safetensors")
    return dict(
        model=f"{folder / 'net.py'}:net", checkpoint=folder / "net.safetensors",
        reward=f"{folder / 'net.py'}:reward", episodes=5, warmup_episodes=2, finetune_epochs=1,
        calibration_batches=5, reward_images=260, finalists=2, device="cpu",
    )  # fmt: skip


def started(*words: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LAUNCHER, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends the ranks
        raise
    return process.returncode, out, err


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """By each of two processes."""
    folder = tmp_path_factory.mktemp("computed")
    status, _, err = ended(started(str(Path(distributed_job.__file__)), str(folder)))
    assert status == 0, err
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    """By one process."""
    return everything()


def relative(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).abs().max() / reference.abs().max().clamp(min=1e-30))


def under(prefix: str, *among: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
    names = [name for name in among[0] if name.startswith(prefix)]
    assert names
    return [tuple(one[name] for one in among) for name in names]


def test_all_ranks_have_the_same_bits(computed: list[dict[str, Tensor]]) -> None:
    first, second = computed
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].equal(second[name]), name


def test_statistics_are_those_of_one_process(
    computed: list[dict[str, Tensor]], expected: dict[str, Tensor]
) -> None:
    for found, reference in under("stats.", computed[0], expected):
        assert relative(found.double(), reference.double()) <= 1e-10


def test_scores_are_those_of_one_process_bit_for_bit(
    computed: list[dict[str, Tensor]], expected: dict[str, Tensor]
) -> None:
    for found, reference in under("score.", computed[0], expected):
        assert found.equal(reference)


def test_cuts_are_those_of_one_process(
    computed: list[dict[str, Tensor]], expected: dict[str, Tensor]
) -> None:
    for prefix in ("cut.", "adapted."):
        for found, reference in under(prefix, computed[0], expected):
            torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)


def test_layers_fitted_by_descent_are_those_of_one_process(
    computed: list[dict[str, Tensor]], expected: dict[str, Tensor]
) -> None:
    for found, reference in under("descent.", computed[0], expected):
        torch.testing.assert_close(found, reference, rtol=1e-3, atol=1e-4)


def test_metrics_are_those_of_one_process(
    computed: list[dict[str, Tensor]], expected: dict[str, Tensor]
) -> None:
    for found, reference in under("metric.", computed[0], expected):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-7)


def test_training_without_batch_norm_is_that_of_one_process(
    computed: list[dict[str, Tensor]], expected: dict[str, Tensor]
) -> None:
    for found, reference in under("training.plain.", computed[0], expected):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)
    for name in ("norm", "dropout"):
        for found, reference in under(f"training.{name}.losses", computed[0], expected):
            assert (
                found - reference
            ).abs().max() < 1.0  # other slices, other masks; no other scale


def test_training_goes_on_after_a_stop_to_the_same_bits(
    computed: list[dict[str, Tensor]], expected: dict[str, Tensor]
) -> None:
    for one in (*computed, expected):
        for name in [name for name in one if name.startswith("whole.")]:
            assert one[name].equal(one[name.replace("whole.", "resumed.")]), name


def test_what_the_first_says_all_hear(computed: list[dict[str, Tensor]]) -> None:
    for one in computed:
        assert bytes(one["first"].tolist()) == b"said by the first"
        assert bytes(one["refused"].tolist()) == b"refused by the first"
        assert one["alike"].tolist() == [True, False]


def words(settings: dict[str, Any]) -> list[str]:
    return [w for k, v in settings.items() for w in ("--" + k.replace("_", "-"), str(v))]


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def strategies(folder: Path) -> list[Any]:
    lines = (folder / "episodes.jsonl").read_text().splitlines()[1:]
    return [json.loads(line)["strategy"] for line in lines]


def test_killed_rank_ends_the_run_which_goes_on_to_the_result_of_one_process(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    folder, record = tmp_path / "two", tmp_path / "two" / "episodes.jsonl"
    process = started(
        "-m", "amc.train", *words({**settings, "run_dir": folder}), PIDS=str(tmp_path)
    )
    ends = time.monotonic() + 180
    while not record.exists() or len(record.read_text().splitlines()) < 3:
        if process.poll() is not None or time.monotonic() > ends:
            process.terminate()
            pytest.fail(str(ended(process)))
        time.sleep(0.02)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    status, out, err = ended(process)
    assert status != 0
    said = [line for line in err.splitlines() if line.startswith("amc.train: ")]
    assert len(said) == 1, err
    assert "another process of this run" in said[0]
    assert said[0].endswith(f"go on: torchrun --nproc_per_node 2 -m amc.train --resume {folder}")
    assert "Signal 9 (SIGKILL)" in err  # torchrun says which
    assert out.count("network  ") == 1
    assert not (folder / "report.json").exists()

    status, out, err = ended(started("-m", "amc.train", "--resume", str(folder)))
    assert status == 0, err
    assert out.count("Everything is in") == 1  # the first speaks for all
    alone = run(TrainConfig.of(run_dir=tmp_path / "one", quiet=True, **settings))
    assert strategies(folder) == strategies(alone)
    for name in ("strategy.json", "plan.json"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes()
    ours, theirs = report_of(folder)["accuracy"], report_of(alone)["accuracy"]
    assert ours["original"] == theirs["original"]
    assert ours["pruned"] == pytest.approx(theirs["pruned"], abs=0.01)
    assert ours["recovered"] == pytest.approx(theirs["recovered"], abs=0.05)
    written = {path.name for path in folder.iterdir() if "tfevents" not in path.name}
    assert written == {path.name for path in alone.iterdir() if "tfevents" not in path.name}
    assert len(list(folder.glob("*tfevents*"))) == len(list(alone.glob("*tfevents*")))


def test_ranks_decode_their_own_images_only(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        Image.new("RGB", (12, 10), (20 * number, 0, 0)).save(path)
    loader = ImageLoader(
        Files(paths), range(9), preprocessing=Preprocessing(8), batch_size=4, augment=True
    )
    whole = list(loader)  # the last batch has one image, which leaves none for the second rank
    parts = [list(loader.slices_of_rank(rank, 2)) for rank in range(2)]
    for (images, labels), *slices in zip(whole, *parts, strict=True):
        assert torch.cat([part[0] for part in slices]).equal(images)
        assert torch.cat([part[1] for part in slices]).equal(labels)
        assert [part[2] for part in slices] == [len(labels)] * 2
    for rank in range(2):
        for found, reference in zip(loader.batches_of_rank(rank, 2), whole[rank::2], strict=True):
            assert found[0].equal(reference[0]) and found[1].equal(reference[1])


# Refused


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts the first of two processes."""
    for name, value in (
        ("RANK", 0),
        ("LOCAL_RANK", 0),
        ("WORLD_SIZE", 2),
        ("LOCAL_WORLD_SIZE", 2),
    ):
        monkeypatch.setenv(name, str(value))


def refusal(wanted: str) -> str:
    with pytest.raises(AmcError) as refused, launch.joined(wanted):
        pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_missing_accelerate_is_named(as_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert "pip install 'amc-pruning[scale]'" in refusal("cpu")


def test_processes_choose_no_device(as_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--device cuda:1" in refusal("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "2 processes for 1 GPUs" in refusal("auto")


def test_first_process_gives_the_help_for_all(
    as_rank: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, said in ((0, True), (1, False)):
        monkeypatch.setenv("RANK", str(rank))
        with pytest.raises(SystemExit) as ended:
            parse(TrainConfig, "amc.train", ["--help"])
        assert not ended.value.code
        assert ("--preserve-ratio" in capsys.readouterr().out) == said


def test_other_commands_know_one_process(as_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from amc.learn import main

    monkeypatch.setattr(sys, "argv", ["amc.learn"])
    with pytest.raises(SystemExit, match="runs in one process; torchrun is for"):
        main()


def test_one_process_imports_nothing_of_it() -> None:
    code = "import sys, amc.train; print('accelerate' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_ranks_that_are_killed_among_their_finals_go_on_to_the_same_bits(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    given = {**settings, "finalists": 4, "finalist_epochs": 1}
    whole = tmp_path / "whole"
    status, _, err = ended(started("-m", "amc.train", *words({**given, "run_dir": whole})))
    assert status == 0, err
    folder, known = tmp_path / "two", tmp_path / "pids"
    known.mkdir()
    run_dir = {**given, "run_dir": folder}
    process = started("-m", "amc.train", *words(run_dir), PIDS=str(known))
    ends = time.monotonic() + 180
    while len(list(folder.glob("finals/*/result.json"))) < 2:
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.01)
    for rank in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((known / str(rank)).read_text()), signal.SIGKILL)
    ended(process)
    assert not (folder / "report.json").exists()
    status, out, err = ended(started("-m", "amc.train", "--resume", str(folder)))
    assert status == 0, err
    assert "trainings of finalists are on record" in out
    for name in ("strategy.json", "plan.json", "pruned.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert report_of(folder)["finals"] == report_of(whole)["finals"]
