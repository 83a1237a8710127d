"""Zeros shared out to layers: costs, exact sums, the walk of the environment, the search."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.config.sections.job import ReconstructionConfig
from amc.config.train import TrainConfig
from amc.gradual.one_shot import layouts_of
from amc.gradual.share_levels import prepared, share_levels
from amc.gradual.shares import STEPS, Shares, shares_graph
from amc.graph.channel_graph import ChannelGraph
from amc.graph.shrink import tensors
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError, InfeasibleBudgetError
from amc.sparsity.masking import Zeros
from amc.steps.job import Job
from amc.steps.result import next_commands
from envs import ChannelPruningEnv


class Net(nn.Module):
    """A layer that is hard to do without, and others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.up = nn.Conv2d(6, 8, 3), nn.ConvTranspose2d(8, 4, 2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        return self.fc(F.relu(self.up(F.relu(self.b(x)))).mean((2, 3)))


NAMES = ["a.weight", "b.weight", "up.weight", "fc.weight"]
SIZES = [54, 432, 128, 12]


def made() -> tuple[Job, nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = Net().eval()
    images = [(torch.randn(32, 1, 6, 6), torch.randint(3, (32,))) for _ in range(3)]
    data = cast(Any, SimpleNamespace(calibration=images, val=images, train=images))
    settings = ReconstructionConfig(calibration_batches=3, points_per_layer=0)
    job = Job(data, torch.device("cpu"), Terminal(quiet=True), reconstruction=settings)
    return job, model, amc.trace(model, (job.samples(2),))


def zeros(graph: ChannelGraph, model: nn.Module, level: float) -> Zeros:
    return Zeros(layouts_of(graph, model, NAMES), level)


def shares(level: float = 0.5) -> tuple[Job, Shares]:
    job, model, graph = made()
    return job, prepared(job, model, graph, zeros(graph, model, level))


def test_costs_are_those_of_weights_that_are_not_zero() -> None:
    _, model, graph = made()
    found = shares_graph(graph, model, ["b.weight", "a.weight"], 0.5)
    assert list(found.sizes) == ["a.weight", "b.weight"]
    assert found.weights == (54, 432)
    assert found.macs() == graph.macs() and found.cost.params(found.counts({})) == 647 + 12
    half = found.counts({"a.weight": 25, "b.weight": 25})
    # a: 54 weights at 36 places, b: 432 at 16
    assert graph.macs() - found.cost.macs(half) == 36 * 27 + 16 * 216
    assert found.cost.params(found.counts({})) - found.cost.params(half) == 27 + 216
    assert found.objective(half) == 27 + 216
    assert found.objective.of(np.stack([half, half])).tolist() == [243, 243]


@pytest.mark.parametrize("level", [0.1, 0.5, 0.77, 0.95])
def test_levels_are_exact_in_sum_and_near_the_strategy(level: float) -> None:
    _, model, graph = made()
    found = shares_graph(graph, model, NAMES, level)
    budget = found.budget(level)
    rng = np.random.default_rng(0)
    for _ in range(20):
        decided: list[int] = []
        for _ in budget.options:
            decided.append(budget.execute(decided, float(rng.random()))[0])
        strategy = budget.strategy(budget.complete(decided))
        assert budget.allows(strategy)
        levels = found.levels(strategy, level)
        gone = [levels[name] * size for name, size in zip(NAMES, SIZES, strict=True)]
        assert np.allclose(gone, np.rint(gone))
        assert round(sum(gone)) == round(level * sum(SIZES))
        for name, size in zip(NAMES, SIZES, strict=True):
            assert abs(1 - levels[name] - strategy[name] / STEPS) <= 0.04 + 1 / size


def test_a_level_that_layers_cannot_take_is_refused() -> None:
    _, model, graph = made()
    found = shares_graph(graph, model, NAMES, 0.5)
    with pytest.raises(InfeasibleBudgetError):
        found.budget(0.95)


def test_strategies_are_carried_out_on_one_network() -> None:
    _, found = shares()
    before = {name: t.clone() for name, t in tensors(found.model).items()}
    strategy = dict.fromkeys(NAMES, 25)
    state = tensors(found.view(strategy))
    for name, size in zip(NAMES, SIZES, strict=True):
        assert int((state[name] == 0).sum()) == size // 2
    whole = tensors(found.cut({"b.weight": 15}))
    assert torch.equal(whole["a.weight"], before["a.weight"])
    assert int((whole["b.weight"] == 0).sum()) == round(0.7 * 432)
    assert all(torch.equal(t, before[name]) for name, t in tensors(found.model).items())


def test_errors_fall_with_the_part_that_stays() -> None:
    _, found = shares()
    budget = found.graph.budget(0.5)
    errors = found.errors(budget)
    for options, values in zip(budget.options, errors.values(), strict=True):
        assert len(values) == len(options) and options[-1] == STEPS
        assert (np.diff(values) <= 0).all() and values[-1] == 0
    for at in (3, 10, 17):
        solved = found.error("b.weight", int(budget.options[1][at]))
        assert errors["b.weight"][at] == pytest.approx(solved, rel=0.5)


def test_the_environment_walks_the_layers() -> None:
    _, found = shares()
    budget = found.graph.budget(0.5)
    env = ChannelPruningEnv(budget, lambda strategy: cast(Any, strategy), lambda outcome: 1.0)
    seen, _ = env.reset()
    done, steps = False, 0
    while not done:
        assert env.observation_space.contains(seen)
        seen, _, done, _, info = env.step(np.array([0.5], dtype=np.float32))
        steps += 1
    assert steps == 4
    assert all(24 <= info["strategy"][name] <= 26 for name in NAMES[:3])


@pytest.mark.parametrize("allocator", ["uniform", "evolution", "ddpg"])
def test_an_allocator_shares_zeros_out(tmp_path: Path, allocator: str) -> None:
    job, model, graph = made()
    config = TrainConfig.of(
        target="weights", sparsity=0.6, sparsity_allocation="search", allocator=allocator,
        episodes=4, warmup_episodes=2, run_dir=tmp_path,
    )  # fmt: skip
    wanted = zeros(graph, model, 0.6)
    levels = share_levels(job, model, graph, wanted, config, tmp_path)
    gone = sum(levels[name] * size for name, size in zip(NAMES, SIZES, strict=True))
    assert round(gone, 6) == round(0.6 * sum(SIZES))
    if allocator in ("evolution", "ddpg"):
        record = tmp_path / "levels" / "episodes.jsonl"
        lines = record.read_text().splitlines()
        assert len(lines) == 5
        record.write_text("\n".join(lines[:3]) + "\n")
        assert share_levels(job, model, graph, wanted, config, tmp_path) == levels
        assert record.read_text().splitlines() == lines


def test_networks_are_not_judged_after_training(tmp_path: Path) -> None:
    job, model, graph = made()
    config = TrainConfig.of(
        target="weights", sparsity_allocation="search", regime="finetune", run_dir=tmp_path
    )
    with pytest.raises(AmcError, match="--regime finetune is for channels"):
        share_levels(replace(job), model, graph, zeros(graph, model, 0.5), config, tmp_path)


def test_the_command_that_trains_on_needs_no_search(tmp_path: Path) -> None:
    config = TrainConfig.of(
        target="weights", sparsity_allocation="search", episodes=7, reward="accuracy",
        run_dir=tmp_path,
    )  # fmt: skip
    command = next(line for line in next_commands(config, tmp_path) if "train on" in line)
    assert "--metric const" in command and "--episodes" not in command
