"""The cut that is made in the end: among finalists, checked, with batch norm adapted."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import amc
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError
from amc.search.problem import Found
from amc.steps.cut import calibrate, cut, cut_best
from amc.steps.job import Job, job_with
from amc.tasks.task import CLASSIFICATION
from envs import Outcome
from envs.outcome import Episode
from small_runs import SMALL, original


def job_of(config: TrainConfig, quiet: bool = True) -> Job:
    data = load_data("digits")
    return job_with(data, CLASSIFICATION, config.but(device="cpu"), Terminal(quiet))


def accuracy(outcome: Outcome) -> float:
    return outcome.score.accuracy


def test_the_final_cut_decides_among_the_finalists(checkpoint: Path) -> None:
    """A strategy that looks best during the search loses to one that is better once cut."""
    config = TrainConfig.of(checkpoint=checkpoint, **SMALL)
    job = job_of(config)
    model = original(checkpoint)
    graph = amc.trace(model, job.example.args)
    compressor = calibrate(job, graph, model)
    gentle, harsh = (
        {g.name: max(1, g.size * part // 8) for g in graph.decisions} for part in (6, 1)
    )
    by_accuracy, by_size = (replace(job, reward=r) for r in (accuracy, lambda o: -float(o.macs)))
    plan, small = cut_best(by_accuracy, compressor, [harsh, gentle])
    assert plan.strategy == gentle
    assert sum(p.numel() for p in small.parameters()) == graph.params(plan)
    assert cut_best(by_size, compressor, [gentle, harsh])[0].strategy == harsh


class Turns(nn.Module):
    """Takes another way where two widths are equal, once it is armed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 9, 3), nn.Conv2d(9, 7, 3), nn.Linear(7, 10)
        self.armed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        y = self.b(x).relu()
        y = -y if self.armed and x.shape[1] == y.shape[1] else y
        out: torch.Tensor = self.fc(y.mean((2, 3)))
        return out


def test_strategies_that_turn_a_branch_are_skipped_or_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The plan is executed before it is carried out, whatever the trace has missed."""
    torch.manual_seed(0)
    model = Turns().eval()
    job = replace(job_of(TrainConfig.of(**SMALL), quiet=False), reward=lambda o: 0.0)
    graph = amc.trace(model, job.example.args)
    model.armed = True
    compressor = calibrate(job, graph, model)
    equal, unequal = {"a": 5, "b": 5}, {"a": 6, "b": 5}
    assert cut_best(job, compressor, [equal, unequal])[0].strategy == unequal
    said = " ".join(capsys.readouterr().out.split())
    assert "skipped 1 of 2 strategies, a, b: " in said and "differs from the masked one" in said
    refusal = "the plan is not carried out: a, b: .* differs from the masked one; --exclude"
    with pytest.raises(AmcError, match=refusal):
        cut_best(job, compressor, [equal])
    with pytest.raises(AmcError, match=refusal):
        cut(job, compressor, compressor.plan(equal))


@pytest.mark.parametrize("count", [50, 128, 300, 10**6])
def test_batch_norm_is_adapted_on_as_many_images_as_asked(count: int, checkpoint: Path) -> None:
    """Those of the statistics first, then more of the stream; 128 images have been read before."""
    data, model = load_data("digits"), original(checkpoint)
    config = TrainConfig.of(checkpoint=checkpoint, bn_samples=count, **SMALL)
    job, usual = (job_of(one) for one in (config, config.but(bn_samples=None)))
    stream = torch.cat([images for images, _ in data.calibration])[:count]
    following = list(job.following)
    assert torch.equal(torch.cat([images for images, _ in following]), stream)
    assert max(len(images) for images, _ in following) <= 32
    graph = amc.trace(model, job.example.args)
    compressor = calibrate(job, graph, model)
    plan = compressor.plan({name: size // 2 for name, size in graph.sizes.items()})
    found, expected = (cut(one, compressor, plan) for one in (job, usual))
    if count != 128:
        adapt_batchnorm(expected, following)
    state = expected.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())


def test_finalist_whose_reward_is_no_number_is_not_chosen(checkpoint: Path) -> None:
    model = original(checkpoint)
    plain = job_of(TrainConfig.of(checkpoint=checkpoint, **SMALL))
    graph = amc.trace(model, plain.example.args)
    compressor = calibrate(plain, graph, model)
    worst, other = ({g.name: g.size // part for g in graph.decisions} for part in (2, 4))
    rewards = iter([math.nan, -1.0])
    job = replace(plain, reward=lambda outcome: next(rewards))
    assert cut_best(job, compressor, [worst, other])[0].strategy == other


def test_finalists_are_the_best_and_one_that_is_always_there() -> None:
    def episode(number: int, channels: int, reward: float) -> Episode:
        return Episode(number, {"a": channels}, None, reward, reward)

    history = tuple(
        episode(i, c, r) for i, (c, r) in enumerate([(4, 0), (5, 2), (6, 1), (5, 2), (7, 3)])
    )
    found = Found(history[-1], history, None)
    assert found.finalists(1, {"a": 4}) == [{"a": 4}]
    assert found.finalists(3, {"a": 4}) == [{"a": 7}, {"a": 5}, {"a": 4}]
    assert found.finalists(9, {"a": 4}) == [{"a": 7}, {"a": 5}, {"a": 6}, {"a": 4}]
