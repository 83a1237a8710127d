"""Weights and blocks become zero: exact levels, masks that stay, files, runs that go on."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amc
from amc.config.sections.recovery import TrainingConfig
from amc.config.sections.search import AllocationConfig
from amc.config.train import TrainConfig
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runtime.errors import AmcError
from amc.steps.allocate import check_files
from amc.steps.result import Result
from amc.train import run
from small_runs import report_of, resume, words

SLOW = pytest.mark.slow
FEW: dict[str, Any] = {"finetune_epochs": 3, "calibration_batches": 2, "target": "weights"}


class Net(nn.Module):
    """Convolutions of both kinds, batch norm, a linear layer: 864 + 72 + 128 + 48 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.b(self.norm(self.a(x)).relu()).relu()).relu()
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


WEIGHTS = {"a.weight": 72, "b.weight": 72, "c.weight": 128, "fc.weight": 48}


def loaders() -> list[DataLoader[Any]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(192, 1, 8, 8, generator=generator)
    labels = images.mean((1, 2, 3)).argsort().argsort() // 64
    sets = [TensorDataset(images[i::3], labels[i::3]) for i in range(3)]
    return [DataLoader(one, batch_size=16) for one in sets]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def compressed(model: nn.Module, **settings: Any) -> Result:
    return amc.compress(model, *loaders(), **{**FEW, **settings})


def zeros_in(model: nn.Module) -> dict[str, int]:
    state = model.state_dict()
    return {name: int((state[name] == 0).sum()) for name in WEIGHTS}


@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity": 0.7},
        {"sparsity": 0.7, "finetune_epochs": 0},
        pytest.param(
            {"sparsity": 0.4, "metric": "normed_magnitude", "sparsity_schedule": "one-shot"},
            marks=SLOW,
        ),
        {"sparsity": 0.65, "metric": "rb", "sparsity_rate": 0.5},
        pytest.param(
            {"sparsity": 0.6, "sparsity_schedule": "exponential", "sparsity_init": 0.2}, marks=SLOW
        ),
        pytest.param({"sparsity": 0.1, "sparsity_schedule": "adaptive"}, marks=SLOW),
        {"sparsity": 0.7, "metric": "obs"},
        pytest.param({"sparsity_steps": (1,), "sparsity_levels": (0.1, 0.35)}, marks=SLOW),
        {"sparsity": 0.7, "sparsity_per_step": False, "ema": 0.9},
        {"target": "blocks", "block": "1x4", "sparsity": 0.5, "sparsity_allocation": "uniform"},
    ],
)
def test_the_level_is_exact(model: nn.Module, settings: dict[str, Any]) -> None:
    """To one weight; blocks, of which every layer has whole ones, as near as a block."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = compressed(model, **settings)
    found, account = zeros_in(result.model), result.report.sparsity
    assert account is not None
    target = settings.get("sparsity", 0.35)
    wanted = round(target * 320)
    assert abs(sum(found.values()) - wanted) <= (0 if "block" not in settings else 8)
    assert account["zeros"] == sum(found.values()) and account["target"] == target
    assert {one["name"]: one["zeros"] for one in account["layers"]} == found
    assert {one["name"]: one["weights"] for one in account["layers"]} == WEIGHTS
    assert type(result.model) is Net and not result.model.training
    for name, tensor in model.state_dict().items():
        assert tensor.equal(before[name]), name


def test_two_of_four_along_inputs(model: nn.Module) -> None:
    result = compressed(model, target="blocks", block="2:4", finetune_epochs=1)
    state = result.model.state_dict()
    for name in ("c.weight", "fc.weight"):
        groups = state[name].flatten(1).unflatten(1, (-1, 4))
        assert bool(((groups == 0).sum(-1) == 2).all()), name


def test_layers_that_are_left_out_stay_whole(
    model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compressed(model, exclude=("a", "Linear"), sparsity=0.5, quiet=False)
    said = capsys.readouterr().out
    assert "200 weights of 2 layers: 50.0% by magnitude" in said and "can be pruned" not in said
    assert zeros_in(result.model) | {"b.weight": 0, "c.weight": 0} == dict.fromkeys(WEIGHTS, 0)
    assert sum(zeros_in(result.model).values()) == 100
    assert result.report.sparsity is not None
    assert set(result.report.sparsity["whole"]) == {"a.weight", "fc.weight"}


def test_const_keeps_the_mask_bit_for_bit(model: nn.Module) -> None:
    first = compressed(model, sparsity=0.7)
    again = compressed(first.model, metric="const", finetune_epochs=2, learning_rate=0.2)
    for name, tensor in first.model.state_dict().items():
        if name in WEIGHTS:
            assert (again.model.state_dict()[name] == 0).equal(tensor == 0), name
            assert not again.model.state_dict()[name].equal(tensor), "nothing was trained"
    assert again.report.sparsity is not None and first.report.sparsity is not None
    assert again.report.sparsity["zeros"] == first.report.sparsity["zeros"]
    same = compressed(first.model, metric="const", finetune_epochs=0)
    for name, tensor in first.model.state_dict().items():
        assert same.model.state_dict()[name].equal(tensor), name


def test_what_cannot_be_is_refused(model: nn.Module) -> None:
    for settings, said in (
        ({"metric": "const"}, "none of the 4 weights has a zero to keep"),
        ({"sparsity": 0.99}, "--sparsity 0.99: at most 0.98.* can become zero, every layer keeps"),
        ({"exclude": ("*",)}, "--target weights: nothing can become zero: excluded"),
        ({"exclude": ("d",)}, "'d' .*no layer"),
    ):
        with pytest.raises(AmcError, match=said):
            compressed(model, **settings)


def test_channels_first_then_weights(model: nn.Module) -> None:
    result = compressed(
        model, target="channels,weights", mode="uniform", channel_multiple=1, sparsity=0.5
    )
    assert result.strategy and result.report.macs.ratio <= 0.5
    account = result.report.sparsity
    assert account is not None
    left = sum(result.model.state_dict()[name].numel() for name in WEIGHTS)
    assert account["weights"] == left < 320
    assert account["zeros"] == round(0.5 * left) == sum(zeros_in(result.model).values())


def test_the_folder_of_a_run_is_loaded_and_exported(model: nn.Module, tmp_path: Path) -> None:
    result = compressed(model, sparsity=0.7, run_dir=tmp_path / "run")
    folder = tmp_path / "run"
    state, masks = (load_file(folder / f"{name}.safetensors") for name in ("pruned", "masks"))
    assert masks.keys() == WEIGHTS.keys()
    for name, mask in masks.items():
        assert mask.dtype is torch.bool and (state[name] != 0).equal(mask), name
    images = torch.randn(4, 1, 8, 8)
    assert amc.load_pruned(model, folder).eval()(images).equal(result.model(images))
    report = report_of(folder)
    assert report["sparsity"]["reached"] == report["sparsity"]["target"] == 0.7
    assert report["sparsity"]["zip_bytes"]["pruned"] < report["sparsity"]["zip_bytes"]["original"]
    assert report["macs"]["ratio"] == 1 and report["sparsity"]["epochs"][-1] == 0.7
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "70.0% of 320 weights are zero, 70.0% were asked for" in page and "Zeros by" in page
    assert "Zeros among weights, by magnitude, polynomial. Target: 70.0%." in page
    assert "| c.weight | 16 × 8 × 1 × 1 | 128 |" in text  # noqa: RUF001
    with pytest.raises(AmcError, match="that run made zeros, and a plan holds channels; to keep"):
        check_files(AllocationConfig(mode="plan", plan=folder), TrainingConfig())


@pytest.mark.parametrize(
    ("metric", "stops"),
    [("magnitude", (2, 5)), pytest.param("rb", (1, 3), marks=pytest.mark.slow)],
)
def test_a_killed_training_goes_on_to_the_same_bits(
    metric: str,
    stops: tuple[int, ...],
    tiny: dict[str, Any],
    few_digits: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of the rise, and after masks are frozen; masks that are drawn too."""
    config = TrainConfig.of(
        model=tiny["model"], data=few_digits, device="cpu", quiet=True, metric=metric, ema=0.5,
        sparsity=0.6, run_dir=tmp_path / "run", **{**FEW, "finetune_epochs": 6},
    )  # fmt: skip
    whole, calls = run(config.but(run_dir=tmp_path / "whole")), iter(range(1, 99))

    def stop(self: TensorBoardLog, level: float) -> None:
        if next(calls) in stops:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TensorBoardLog, "finetune_level", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config)
        with pytest.raises(KeyboardInterrupt):
            resume(tmp_path / "run")
    resume(tmp_path / "run")
    for name in ("pruned.safetensors", "masks.safetensors", "trainings.json"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = report_of(tmp_path / "run"), report_of(whole)
    assert ours["sparsity"] == theirs["sparsity"] and ours["accuracy"] == theirs["accuracy"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
@pytest.mark.parametrize("metric", ["magnitude", "rb", "obs"])
def test_several_processes_come_to_the_same_masks(
    metric: str, tiny: dict[str, Any], few_digits: str, tmp_path: Path
) -> None:
    """Which a run makes sure of itself."""
    settings = {
        "model": tiny["model"], "data": few_digits, "device": "cpu", "target": "weights",
        "sparsity": 0.6, "metric": metric, "finetune_epochs": 3, "run_dir": tmp_path / "run",
    }  # fmt: skip
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2")
    done = subprocess.run(
        [*launcher, "-m", "amc.train", *words(settings)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "run")["sparsity"]["reached"] == pytest.approx(0.6, abs=1e-4)
