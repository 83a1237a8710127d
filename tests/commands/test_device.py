"""Everything follows the device: runs on one that refuses what a GPU would."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from amc import apply, learn, pareto
from amc.config.apply import ApplyConfig
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.train import TrainConfig
from amc.models.catalog import build
from amc.runtime.errors import AmcError
from amc.tasks.evaluate import evaluate
from amc.train import run
from amc.training.recipe import Recipe
from amc.training.trainer import LOWERED, RETRIES, Step, train
from strict_device import ELSEWHERE, Away, reachable


@pytest.fixture(scope="module")
def common(checkpoint: Path, few_digits: str) -> dict[str, Any]:
    """Settings of a short run on a network that has learned a little."""
    return dict(
        width=0.5, checkpoint=checkpoint, data=few_digits, calibration_batches=2, quiet=True,
        reward_images=60, episodes=5, warmup_episodes=3, finalists=2, finetune_epochs=1,
    )  # fmt: skip


def test_devices_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests below would prove nothing."""
    x, model = torch.ones(2, 3), nn.Linear(3, 4)
    expected = model(x)
    with reachable(monkeypatch) as returned:
        model.to("lazy")
        assert isinstance(model.weight, Away) and model.weight.device == ELSEWHERE
        with pytest.raises(RuntimeError, match="two devices"):
            model(x)
        with pytest.raises(RuntimeError, match="two devices"):
            model(x.to("lazy")) + torch.ones(2, 4)
        with pytest.raises(RuntimeError, match="numpy"):
            model(x.to("lazy")).detach().numpy()
        assert not returned
        assert model(x.to("lazy")).cpu().equal(expected)
        assert sum(returned.values()) == 1


SLOW = [
    {"metric": "obs", "regime": "finetune", "reward_steps": 2, "memory": "1MB"},
    {"mode": "uniform", "schedule": "linear", "schedule_steps": 2, "finetune_epochs": 2,
     "soft": True, "bn_samples": 100, "distill_schedule": "linear"},
    {"regime": "shared", "shared_epochs": 1, "metric": "l2"},
    {"mode": "uniform", "schedule": "adaptive", "schedule_steps": 2, "metric": "l2"},
    {"mode": "uniform", "model": "mobilenet_v2", "finetune_epochs": 0},
    {"mode": "uniform", "metric": "fisher", "finetune_epochs": 0},
    {"mode": "uniform", "metric": "movement", "finetune_epochs": 0},
]  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"mode": "uniform", "metric": "obs", "group_size": 8, "finetune_epochs": 2,
         "feature_weight": 1.0, "ema": 0.9, "clip": 1.0, "label_smoothing": 0.1},
        *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW),
    ],
)  # fmt: skip
def test_run_elsewhere_is_the_run_on_the_cpu(
    common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    settings = {**common, **given}
    if "model" in given:
        model, settings["checkpoint"] = (
            build("mobilenet_v2", num_classes=10, in_channels=1, width=0.5),
            tmp_path / "weights.safetensors",
        )
        save_file(model.state_dict(), settings["checkpoint"])
    here = run(TrainConfig.of(**settings, device="cpu", run_dir=tmp_path / "here"))
    with reachable(monkeypatch):
        there = run(TrainConfig.of(**settings, device="lazy", run_dir=tmp_path / "there"))
    for name in ("strategy.json", "plan.json", "pruned.safetensors"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"metric": "normed_magnitude", "sparsity": 0.7, "ema": 0.9},
        {"metric": "rb", "sparsity": 0.7, "sparsity_rate": 0.1, "finetune_epochs": 3},
        {"metric": "obs", "sparsity": 0.7},
        {"target": "blocks", "block": "2:4", "bn_samples": 100},
        {
            "target": "blocks",
            "block": "1x4",
            "metric": "obs",
            "sparsity": 0.6,
            "sparsity_allocation": "search",
            "episodes": 3,
            "warmup_episodes": 2,
        },
    ],
    ids=str,
)
def test_zeros_elsewhere_are_those_of_the_cpu(
    common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    """Level, masks and weights to the same bits; and masks that were kept from a checkpoint."""
    names = ("width", "checkpoint", "data", "calibration_batches", "quiet", "finetune_epochs")
    network = {"target": "weights", **{k: common[k] for k in names}}

    def everything(folder: Path, device: str) -> list[bytes]:
        sparse = {"metric": "const", "checkpoint": folder / "pruned.safetensors"}
        for settings, place in ((given, folder), (sparse, folder / "const")):
            run(TrainConfig.of(**{**network, **settings, "device": device, "run_dir": place}))
        files = [one / name for one in (folder, folder / "const") for name in LEFT]
        return [file.read_bytes() for file in files]

    here = everything(tmp_path / "here", "cpu")
    assert here[1] == here[3]
    with reachable(monkeypatch):
        assert everything(tmp_path / "there", "lazy") == here


LEFT = ("pruned.safetensors", "masks.safetensors")

BATCHES = [(torch.full((4, 3), 0.1 * i), torch.tensor([0, 1, 0, 1])) for i in range(25)]


def test_training_waits_for_the_losses_of_ten_steps_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(device: str) -> tuple[nn.Module, list[Step]]:
        torch.manual_seed(0)
        steps: list[Step] = []
        return train(
            nn.Linear(3, 2).to(device), BATCHES, Recipe(2, 0.1), on_step=steps.append
        ), steps

    expected, wanted = trained("cpu")
    with reachable(monkeypatch) as returned:
        found, steps = trained("lazy")
        assert sum(returned.values()) == 2 * (3 + 1)  # and whether the weights are finite
        assert found.weight.cpu().equal(expected.weight)
    assert steps == wanted


def test_training_elsewhere_goes_back_when_a_loss_is_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []

    def loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return model(images).sum() + (float("nan") if float(images[0, 0].cpu()) > 1.25 else 0.0)

    with reachable(monkeypatch), pytest.raises(AmcError, match="the loss is nan in epoch 1 of 2"):
        train(
            nn.Linear(3, 2).to("lazy"), BATCHES, Recipe(2, 0.1), loss,
            on_step=lambda step: steps.append(step.step),
        )  # fmt: skip
    # 0.0 to 1.2, and again: five times at a quarter of the rate, three times at half of it
    assert steps == (1 + LOWERED + RETRIES) * list(range(1, 14))


def test_validation_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    expected = evaluate(model, BATCHES)
    with reachable(monkeypatch) as returned:
        assert evaluate(model.to("lazy"), BATCHES) == expected
        assert sum(returned.values()) == 1


@pytest.mark.slow
def test_what_was_learned_is_used_elsewhere(
    common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One policy for many budgets; every size; a policy and a plan applied."""
    network = {
        k: common[k] for k in ("checkpoint", "width", "data", "calibration_batches", "quiet")
    }

    def everything(folder: Path, device: str) -> list[bytes]:
        given = {**network, "device": device}
        learned, swept = folder / "learned", folder / "swept"
        learn.run(LearnConfig.of(**given, episodes=4, targets=2, run_dir=learned))
        pareto.run(ParetoConfig.of(**given, policy=learned, targets=2, run_dir=swept))
        apply.run(ApplyConfig.of(**given, policy=learned, run_dir=folder / "policy"))
        apply.run(ApplyConfig.of(**given, plan=folder / "policy", run_dir=folder / "plan"))
        return [
            (folder / name).read_bytes()
            for name in (
                "learned/policy.safetensors",
                "policy/plan.json",
                "plan/pruned.safetensors",
            )
        ]

    expected = everything(tmp_path / "here", "cpu")
    with reachable(monkeypatch):
        assert everything(tmp_path / "there", "lazy") == expected
