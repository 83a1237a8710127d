"""Training never makes a network worse: the best of all epochs, lower rates, frozen parameters."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import amc
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.train import run
from amc.training.best_network import BestNetwork
from amc.training.checkpoint import Checkpoint
from amc.training.recipe import Recipe
from amc.training.trainable import trainable
from amc.training.trainer import Step, train


def cloud(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return x, x @ torch.linspace(-1, 1, 12).reshape(6, 2)


def stream() -> list[tuple[Tensor, Tensor]]:
    x, y = cloud()
    return list(zip(x.split(6), y.split(6), strict=True))


def small(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle: nn.Module = nn.BatchNorm1d(16) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(6, 16), middle, nn.ReLU(), nn.Linear(16, 2))


def squared(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(model(x), y)


def told(scores: list[float], seen: list[dict[str, Tensor]]) -> BestNetwork:
    """Gives these scores one after the other, and keeps what it was shown."""

    def score(network: nn.Module) -> float:
        seen.append({name: t.clone() for name, t in network.state_dict().items()})
        return scores[len(seen) - 1]

    return BestNetwork(score)


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.7, 0.6, 0.7, 0.2], 3),  # the later one of two
        ([0.9, 0.7, 0.6, 0.8, 0.2], 0),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 4),
        ([-3.0, math.nan, -2.5, math.nan, -4.0], 2),
        ([math.nan, -9.0, math.nan, math.nan, math.nan], 1),
    ],
)
def test_the_result_is_the_best_network(scores: list[float], best: int, ema: float) -> None:
    seen: list[dict[str, Tensor]] = []
    judged = told(scores, seen)
    found = train(small(), stream(), Recipe(4, 0.01, ema=ema), squared, judged=judged)
    assert judged.best == best and len(seen) == 5
    assert same(found, seen[best])
    assert not same(found, seen[(best + 1) % 5])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_what_was_judged_before_a_stop_counts_after_it(stop: int, tmp_path: Path) -> None:
    scores, recipe = [0.5, 0.9, 0.6, 0.7, 0.8], Recipe(4, 0.01)
    whole = train(small(), stream(), recipe, squared, judged=told(scores, []))
    checkpoint = Checkpoint(tmp_path / "training.safetensors", {})

    def end(epoch: int, network: nn.Module) -> None:
        if epoch == stop:
            raise Stopped

    with pytest.raises(Stopped):
        train(
            small(), stream(), recipe, squared, on_epoch=end, checkpoint=checkpoint,
            judged=told(scores, []),
        )  # fmt: skip
    seen: list[dict[str, Tensor]] = []
    judged = told(scores[stop + 1 :], seen)
    found = train(small(), stream(), recipe, squared, checkpoint=checkpoint, judged=judged)
    assert judged.scores == scores and len(seen) == 4 - stop
    assert same(found, whole.state_dict())


def rates(norm: bool, rate: float) -> tuple[nn.Module, list[Step]]:
    model, steps = small(norm), list[Step]()
    train(model, stream(), Recipe(6, 0.05, warmup=0.0), squared)  # a good one, about to be spoilt
    found = train(model, stream(), Recipe(3, rate, warmup=0.1), squared, steps.append)
    return found, steps


@pytest.mark.parametrize("rate", [2.0, 8.0, 30.0])
def test_without_batch_norm_a_rate_that_is_too_high_is_lowered(rate: float) -> None:
    model, steps = rates(False, rate)
    last = [step for step in steps if step.epoch == 3]
    assert len(last) == 10
    factors = [s.learning_rate / (r * rate) for s, r in zip(last, shape(), strict=True)]
    assert factors[0] == pytest.approx(factors[-1])
    quarters = math.log(factors[0], 0.25)
    assert 1 <= quarters <= 5 and quarters == pytest.approx(round(quarters))
    before = [s.loss for s in steps[:5]]
    assert float(squared(model, *cloud(seed=1)).detach()) < 3 * max(before)


def shape() -> list[float]:
    """The schedule's part of the rate in the last third of thirty steps."""
    return [0.5 * (1 + math.cos(math.pi * (s / 30 - 0.1) / 0.9)) for s in range(20, 30)]


def test_a_rate_that_is_right_is_kept() -> None:
    _, steps = rates(False, 0.02)
    assert len(steps) == 30
    assert max(step.learning_rate for step in steps) == pytest.approx(0.02, rel=0.01)


def test_with_batch_norm_the_rate_is_the_users() -> None:
    _, steps = rates(True, 0.2)
    assert len(steps) == 30


def test_training_reaches_what_was_cut_and_flags_come_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    graph = amc.trace(model, (torch.randn(1, 3, 9, 9),))
    small_one = amc.shrink(model, graph.plan({"0": range(4)}))
    plan = graph.plan({"0": range(4)})
    small_one.requires_grad_(False)
    small_one.get_parameter("3.bias").requires_grad_(True)
    with trainable(small_one, plan):
        inside = {n for n, p in small_one.named_parameters() if p.requires_grad}
    assert inside == {"0.weight", "0.bias", "2.weight", "3.bias"}
    assert {n for n, p in small_one.named_parameters() if p.requires_grad} == {"3.bias"}
    small_one.requires_grad_(False)
    with trainable(small_one, graph.plan({})):
        assert all(p.requires_grad for p in small_one.parameters())
    assert not any(p.requires_grad for p in small_one.parameters())


NETWORK = """
from pathlib import Path
from safetensors.torch import load_file
from amc.models import build

def frozen():
    model = build("resnet20", num_classes=10, in_channels=1, width=0.5)
    model.load_state_dict(load_file(Path(__file__).with_name("checkpoint.txt").read_text()))
    return model.requires_grad_(False)
"""


@pytest.mark.parametrize(
    ("rate", "lines"),
    [(0.05, ()), (3e4, ("again    training at a rate of 30000", "kept     training does not"))],
)
def test_frozen_networks_are_trained_and_spoilt_ones_are_not_taken(
    rate: float,
    lines: tuple[str, ...],
    checkpoint: Path,
    few_digits: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    (tmp_path / "checkpoint.txt").write_text(str(checkpoint))
    settings = dict(
        model=f"{file}:frozen", data=few_digits, mode="uniform", calibration_batches=2,
        reward_images=40, preserve_ratio=0.3, weight_decay=0.0, device="cpu",
    )  # fmt: skip
    cut = run(TrainConfig.of(**settings, finetune_epochs=0, run_dir=tmp_path / "cut", quiet=True))
    tuned = run(
        TrainConfig.of(
            **settings, finetune_epochs=2, learning_rate=rate, run_dir=tmp_path / "tuned"
        )
    )
    said = capsys.readouterr().out
    before, after = (load_file(f / "pruned.safetensors") for f in (cut, tuned))
    kept = all(torch.equal(before[name], after[name]) for name in before)
    assert kept == bool(lines)
    assert all(line in said for line in lines)
    accuracy = read_json(tuned / "report.json")["accuracy"]
    assert accuracy["recovered"] >= accuracy["pruned"] - 0.02


UNTRAINABLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

class Inference(Net):
    def forward(self, x):
        if self.training:
            raise ValueError("for inference only")
        return super().forward(x)

class Ungraded(Net):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [("Inference", "for inference only"), ("Ungraded", "turns gradients off in forward")],
)
def test_what_cannot_be_trained_is_known_before_anything_long(
    name: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "net.py"
    file.write_text(UNTRAINABLE)
    settings = dict(
        model=f"{file}:{name}", calibration_batches=2, reward_images=40, device="cpu", quiet=True,
        mode="uniform",
    )  # fmt: skip
    with pytest.raises(AmcError, match=message) as refused:
        run(TrainConfig.of(**settings, run_dir=tmp_path / "trained"))
    assert "--finetune-epochs 0" in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "trained").exists()
    folder = run(TrainConfig.of(**settings, finetune_epochs=0, run_dir=tmp_path / "cut"))
    assert (folder / "pruned.safetensors").exists()
