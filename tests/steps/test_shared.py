"""One training for all strategies: what it spans, how it goes on, and what comes of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import amc
from amc import compare, pareto
from amc.config.compare import CompareConfig
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.train import TrainConfig
from amc.graph.shrink import tensors
from amc.objectives.budget import Budget
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.reconstruction.shared_weights import SharedWeights
from amc.reporting.tensorboard.log import TensorBoardLog
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError
from amc.runtime.files import read_json
from amc.steps import shared as shared_step
from amc.steps.allocate import allocation_of
from amc.steps.cut import calibrate, cut
from amc.steps.finetune import Recovery
from amc.steps.job import Job, open_job
from amc.steps.shared import share
from amc.tasks.evaluate import evaluate
from amc.train import run
from small_runs import SMALL, original, report_of

SETTINGS: dict[str, Any] = dict(
    SMALL, regime="shared", shared_epochs=1, preserve_ratio=0.3, metric="l1", channel_multiple=1,
    learning_rate=0.01,
)  # fmt: skip


# The training


Made = Callable[..., tuple[Recovery, Any, Budget]]


@pytest.fixture
def made(checkpoint: Path, few_digits: str, tmp_path: Path) -> Made:
    """What `share` is called with, in a folder of its own."""

    def of(folder: str = "run", **settings: Any) -> tuple[Recovery, Any, Budget]:
        config = TrainConfig.of(**{**SETTINGS, "data": few_digits, **settings})
        job: Job = open_job(config, Terminal(True))
        model = original(checkpoint)
        graph = amc.trace(model, job.example.args)
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        log = TensorBoardLog(place, graph.sizes, graph.macs())
        training, distill = config.training, config.distill
        recovery = Recovery(job, graph, model, training, distill, config.data, log, place)
        budget = allocation_of(graph, config).budget
        assert budget is not None
        return recovery, calibrate(job, graph, model), budget

    return of


class Stopped(Exception):
    pass


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def test_stopped_training_goes_on_to_the_same_bits_and_is_done_once(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery, compressor, budget = made("whole", shared_epochs=2)
    random_state = torch.get_rng_state()
    whole = share(recovery, compressor, [budget])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not (recovery.folder / shared_step.STATE).exists()

    recovery, compressor, budget = made("stopped", shared_epochs=2)
    steps, shown = 0, recovery.log.shared_step

    def stop(step: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 6:  # of 4 in an epoch
            raise Stopped
        shown(step)

    monkeypatch.setattr(recovery.log, "shared_step", stop)
    with pytest.raises(Stopped):
        share(recovery, compressor, [budget])
    assert (recovery.folder / shared_step.STATE).exists()
    assert not (recovery.folder / shared_step.FILE).exists()
    steps = -100
    resumed = share(recovery, compressor, [budget])
    assert steps == -100 + 4  # only the second epoch
    expected = state(whole.weights.sliced(whole.weights.widest))
    for name, held in state(resumed.weights.sliced(resumed.weights.widest)).items():
        assert torch.equal(held, expected[name]), name

    steps = -100
    monkeypatch.setattr(shared_step, "cut", None)  # would fail if it were called
    again = share(recovery, compressor, [budget])
    assert steps == -100
    for name, held in state(again.weights.sliced(again.weights.widest)).items():
        assert torch.equal(held, expected[name]), name
    assert again.account == whole.account


def test_other_settings_train_anew(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    recovery, compressor, budget = made()
    share(recovery, compressor, [budget])
    before = (recovery.folder / shared_step.FILE).read_bytes()
    other = replace(recovery, training=replace(recovery.training, learning_rate=0.02))
    share(other, compressor, [budget])
    assert (recovery.folder / shared_step.FILE).read_bytes() != before


def test_training_makes_slices_better_and_leaves_the_original_alone(made: Made) -> None:
    recovery, compressor, budget = made(preserve_ratio=0.15)
    before = {n: t.detach().clone() for n, t in tensors(recovery.original).items()}
    shared = share(recovery, compressor, [budget])
    assert all(torch.equal(tensors(recovery.original)[n], t) for n, t in before.items())
    uniform, images = shared.band.centres[0][0], recovery.job.validation
    chosen, plan = shared.weights, shared.weights.widest
    untrained = SharedWeights(chosen, cut(recovery.job, chosen, plan), plan)
    before = evaluate(untrained.view(uniform), images, True).loss
    assert evaluate(shared.weights.view(uniform), images, True).loss < 0.9 * before


def test_a_cut_is_the_slice_with_batch_norm_of_the_calibration_images(made: Made) -> None:
    recovery, compressor, budget = made()
    shared = share(recovery, compressor, [budget])
    plan = shared.weights.plan(shared.band.centres[0][-1])
    found, expected = shared.cut(plan), shared.weights.sliced(plan)
    adapt_batchnorm(expected, recovery.job.images)
    assert not any(module.training for module in found.modules())
    for name, held in state(found).items():
        assert torch.equal(held, state(expected)[name]), name
    assert recovery.graph.macs(plan) <= budget.target


@pytest.mark.parametrize(
    "settings",
    [{"distill": False}, {"feature_weight": 0.5, "ema": 0.9}],
    ids=str,
)
def test_slices_learn_by_the_settings_of_training(made: Made, settings: dict[str, Any]) -> None:
    recovery, compressor, budget = made(**settings)
    score = share(recovery, compressor, [budget]).account["scores"]["widest"]["accuracy"]
    assert score > 0.3  # after four steps


# Whole runs


@pytest.mark.parametrize(
    "settings",
    [
        {"allocator": "ddpg"},
        {"allocator": "knapsack", "objective": "params=0.4,macs=0.3", "preserve_ratio": 0.5},
    ],
    ids=str,
)
def test_whole_run(
    checkpoint: Path, few_digits: str, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = TrainConfig.of(
        **{
            **SETTINGS,
            "checkpoint": checkpoint,
            "data": few_digits,
            "run_dir": tmp_path / "run",
            **settings,
        }
    )
    folder = run(config)
    report, network = report_of(folder), original(checkpoint)
    scores = report["shared"]["scores"]
    assert scores.keys() >= {"widest", "narrowest"} and len(scores) == 3
    smaller = amc.load_pruned(network, folder)
    assert sum(p.numel() for p in smaller.parameters()) == report["params"]["pruned"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "agp"}, "--schedule agp cuts in stages"),
        ({"group_size": 2}, "--group-size cuts in stages"),
        ({"channel_ratio": 0.5, "mode": "uniform"}, "--channel-ratio is given channels"),
        ({"bn_adapt": False}, "does not go with --no-bn-adapt"),
        ({"shared_ratio": 0.5}, r"--shared-ratio must be in \[1, 1e\+09\], got 0.5"),
        ({"shared_epochs": 0}, "--shared-epochs"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_one_line(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(AmcError, match=message) as caught:
        TrainConfig.of(regime="shared", **settings)
    assert "\n" not in str(caught.value)


def test_one_training_serves_all_budgets_of_a_sweep(
    checkpoint: Path, few_digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy is learned on the shared weights, and every point is a slice of them."""
    trainings, real = [], shared_step.train

    def counted(*given: Any, **more: Any) -> nn.Module:
        trainings.append(given)
        return real(*given, **more)

    monkeypatch.setattr(shared_step, "train", counted)
    config = ParetoConfig.of(
        width=0.5, checkpoint=checkpoint, data=few_digits, run_dir=tmp_path / "sweep",
        preserve_ratio="0.2,0.3", episodes=12, calibration_batches=4, reward_images=60,
        metric="l1", device="cpu", quiet=True, regime="shared", shared_epochs=1,
        learning_rate=0.01, channel_multiple=1,
    )  # fmt: skip
    folder, network = pareto.run(config), original(checkpoint)
    assert len(trainings) == 1
    graph = amc.trace(network, (torch.zeros(2, 1, 16, 16),))
    for ratio in (0.2, 0.3):
        smaller = amc.load_pruned(network, folder / "points" / f"{ratio:g}")
        macs = amc.trace(smaller.eval(), (torch.zeros(2, 1, 16, 16),)).macs()
        assert 0.97 * ratio < macs / graph.macs() <= ratio
    before = (folder / "pareto.json").read_bytes()
    pareto.run(config)
    assert len(trainings) == 1 and (folder / "pareto.json").read_bytes() == before


def test_methods_compete_on_shared_weights(
    checkpoint: Path, few_digits: str, tmp_path: Path
) -> None:
    config = CompareConfig.of(
        width=0.5, checkpoint=checkpoint, data=few_digits, run_dir=tmp_path / "contest",
        preserve_ratio=0.3, episodes=4, seeds=1, methods=("random", "uniform"), metric="l1",
        calibration_batches=4, reward_images=60, device="cpu", quiet=True, regime="shared",
        shared_epochs=1, channel_multiple=1,
    )  # fmt: skip
    folder = compare.run(config)
    attempts = read_json(folder / "compare.json")["attempts"]
    assert [one["method"] for one in attempts] == ["random", "uniform"]
    assert all(one["cut"] for one in attempts)
    assert (folder / shared_step.FILE).exists()


@pytest.mark.parametrize("config", [LearnConfig, ParetoConfig, CompareConfig])
def test_all_commands_refuse_what_makes_no_sense(config: Any) -> None:
    with pytest.raises(AmcError, match="does not go with --no-bn-adapt"):
        config.of(regime="shared", bn_adapt=False)
