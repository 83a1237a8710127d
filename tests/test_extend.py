"""Every part of one's own, as the page shows it, in memory and from a file."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import amc
from amc.config.train import TrainConfig
from amc.objectives.custom import users_objective
from amc.train import run
from six_decisions import budget as six
from six_decisions import errors_of
from small_runs import SMALL

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"
BLOCKS = re.findall(r"<!-- extend -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def parts() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile("\n\n".join(BLOCKS), "extend.md", "exec"), names)
    return names


def test_every_part_is_about_ten_lines() -> None:
    assert len(BLOCKS) == 9
    for block in BLOCKS[:-1]:
        code = [x for x in block.splitlines() if x.strip() and not x.strip().startswith('"""')]
        assert len(code) <= 15, block


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(),
        nn.Conv2d(24, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip


def test_parts_by_hand() -> None:
    own, model = parts(), network()
    graph = amc.trace(model, (torch.zeros(2, 1, 10, 10),))
    small = own["pruned_by_hand"](model, graph, own["peak"], own["inverse_to_width"])
    assert amc.trace(small, (torch.zeros(2, 1, 10, 10),)).macs() <= graph.macs() / 2
    with torch.no_grad():
        model[0].weight[3] = 0.0
        model[0].weight[3, 0, 1, 1] = 9.0
    first = graph.decisions[0]
    scores = own["peak"](amc.metrics.Evidence(graph, model, {}), first)
    assert int(scores.argmax()) == 3
    assert own["keep_narrow_groups"](graph, 20).sizes == {"2": 24}


def test_solvers_and_objectives_of_ones_own() -> None:
    own, budget = parts(), six()
    strategy = own["first_that_fits"](budget, errors_of(budget))
    assert budget.floor <= budget.cost(budget.graph.counts(strategy)) <= budget.target
    costs = own["traffic"](budget.graph)
    full = budget.graph.counts({})
    assert costs(full[None])[0] > costs(np.maximum(full // 2, 1)[None])[0] > 0
    for progress in (0.1, 0.5, 1.0):
        assert 0.3 <= own["ever_slower"](0.3, progress) < 1
    assert own["ever_slower"](0.3, 1.0) == pytest.approx(0.3)


@pytest.mark.parametrize("allocator", ["coordinate_walk", "my_allocator", "inverse_to_width"])
def test_parts_in_memory(allocator: str) -> None:
    own, images = parts(), torch.randn(64, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), 32)
    result = amc.compress(
        network(), loader, loader, metric=own["peak"], allocator=own[allocator],
        schedule=own["ever_slower"], schedule_steps=2, reward=own["frugal"],
        objective=own["traffic"], target=own["keep_narrow_groups"], episodes=5,
        finetune_epochs=2, channel_multiple=1,
    )  # fmt: skip
    (cost,) = result.report.objective.values()
    assert cost.ratio <= 0.5 and cost.unit == "traffic"


def test_parts_from_a_file(tmp_path: Path, checkpoint: Path) -> None:
    file = tmp_path / "my_parts.py"
    file.write_text("\n\n".join(BLOCKS))
    assert users_objective(f"{file}:traffic", six().graph)
    words = {key: f"{file}:{name}" for key, name in (
        ("metric", "peak"), ("allocator", "inverse_to_width"), ("schedule", "ever_slower"),
        ("reward", "frugal"), ("objective", "traffic"), ("target", "keep_narrow_groups"),
    )}  # fmt: skip
    folder = run(TrainConfig.of(**{**SMALL, **words, "checkpoint": checkpoint,
                                   "finetune_epochs": 2, "schedule_steps": 2,
                                   "run_dir": tmp_path / "run"}))  # fmt: skip
    report = json.loads((folder / "report.json").read_text())
    assert 0 < report["objective"][words["objective"]]["ratio"] <= 0.5
