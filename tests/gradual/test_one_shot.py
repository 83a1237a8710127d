"""A whole network with zeros at once: counts, layers of every kind, errors against magnitude's."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.config.sections.job import ReconstructionConfig
from amc.gradual import one_shot as rooms
from amc.gradual.one_shot import KIND, SHARED, UNKNOWN, WIDE, one_shot, solvable
from amc.gradual.share_levels import prepared as prepared_shares
from amc.gradual.shares import STEPS
from amc.graph.shrink import duplicate, tensors
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError
from amc.sparsity.magnitude import magnitude
from amc.sparsity.masking import Zeros
from amc.sparsity.patterns import Pattern
from amc.sparsity.select import chosen
from amc.steps.job import Job


class Net(nn.Module):
    """Convolutions of all kinds, a shortcut, batch norms and a functional layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.wise, self.grouped = (
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 8, 1, groups=2),
        )
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.line = nn.Conv1d(6, 6, 3)
        self.table = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        x = F.relu(x + self.grouped(F.relu(self.wise(x))))
        x = F.relu(self.line(F.relu(self.up(x)).flatten(2)))
        return F.linear(x.mean(2), self.table)


class Twice(nn.Module):
    """A layer that is executed twice, one of another's weight, and one in no layer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.c.weight = self.b.weight
        self.scale = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(F.relu(self.a(x.flatten(1)))))
        return self.c(F.relu(self.b(x) * self.scale.sum(0)))


def job(*size: int, **reconstruction: Any) -> Job:
    torch.manual_seed(1)
    images = [(torch.randn(32, *size), torch.zeros(32)) for _ in range(4)]
    data = cast(Any, SimpleNamespace(calibration=images))
    settings = ReconstructionConfig(calibration_batches=4, points_per_layer=0, **reconstruction)
    return Job(data, torch.device("cpu"), Terminal(quiet=True), reconstruction=settings)


def prepared(kind: type[nn.Module], *size: int) -> tuple[Job, nn.Module, Any, list[str]]:
    torch.manual_seed(0)
    model = kind().eval()
    work = job(*size)
    graph = amc.trace(model, (work.samples(2),))
    return work, model, graph, [n for n, p in model.named_parameters() if p.ndim > 1]


def outputs(model: nn.Module, work: Job) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x) for x, _ in work.images])


def zeros(masks: Any) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_every_kind_of_layer_has_its_zeros_and_the_original_stays(scope: str) -> None:
    work, model, graph, names = prepared(Net, 2, 6, 6)
    before = {name: t.clone() for name, t in tensors(model).items()}
    found = one_shot(work, model, graph, names, 0.5, scope=scope)
    assert all(torch.equal(t, before[name]) for name, t in tensors(model).items())
    assert list(found.masks) == names
    total = sum(mask.numel() for mask in found.masks.values())
    assert zeros(found.masks) == total // 2
    state = tensors(found.network)
    for name, mask in found.masks.items():
        assert (state[name][~mask] == 0).all() and (state[name][mask] != 0).all()
        if scope == "uniform":
            assert int((~mask).sum()) == round(mask.numel() / 2)
    assert found.by_magnitude == {"up.weight": KIND.format("conv_transpose2d")}
    assert list(found.errors) == [
        "a.weight",
        "wise.weight",
        "grouped.weight",
        "line.weight",
        "table",
    ]


@pytest.mark.parametrize("level", [0.3, 0.6])
def test_outputs_are_nearer_than_those_of_magnitude(level: float) -> None:
    work, model, graph, names = prepared(Net, 2, 6, 6)
    work = replace(work, reconstruction=replace(work.reconstruction, bn_adapt=False))
    found = one_shot(work, model, graph, names, level, scope="uniform")
    plain = duplicate(model)
    held = tensors(plain)
    masks = chosen({name: magnitude(held[name]) for name in names}, level, scope="uniform")
    with torch.no_grad():
        for name, mask in masks.items():
            held[name].mul_(mask)
    wanted = outputs(model, work)
    apart = [(outputs(one, work) - wanted).square().sum() for one in (found.network, plain)]
    assert apart[0] < 0.6 * apart[1]


def test_layer_after_layer_is_nearer_than_every_layer_by_itself() -> None:
    work, model, graph, names = prepared(Net, 2, 6, 6)
    work = replace(work, reconstruction=replace(work.reconstruction, bn_adapt=False))
    level = dict.fromkeys(names, 0.5)
    found = one_shot(work, model, graph, names, level)
    shares = prepared_shares(work, model, graph, Zeros(rooms.layouts_of(graph, model, names), 0.5))
    alone = shares.cut(dict.fromkeys(names, STEPS // 2))
    wanted = outputs(model, work)
    apart = [(outputs(one, work) - wanted).square().sum() for one in (found.network, alone)]
    assert apart[0] < apart[1]


def test_one_pass_and_a_pass_for_each_layer_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    work, model, graph, names = prepared(Net, 2, 6, 6)
    work = replace(work, reconstruction=replace(work.reconstruction, bn_adapt=False))
    level = dict.fromkeys(names, 0.5)
    once = one_shot(work, model, graph, names, level)
    monkeypatch.setattr(rooms._Task, "in_step", lambda task: False)
    slowly = one_shot(work, model, graph, names, level)
    assert all(torch.equal(once.masks[n], slowly.masks[n]) for n in names)
    torch.testing.assert_close(
        outputs(once.network, work), outputs(slowly.network, work), rtol=1e-3, atol=1e-4
    )


def test_what_earlier_layers_spoil_is_made_up_for() -> None:
    work, model, graph, _ = prepared(Net, 2, 6, 6)
    level = {"a.weight": 0.5, "table": 0.0}
    found = one_shot(work, model, graph, list(level), level)
    without = one_shot(work, model, graph, ["a.weight"], {"a.weight": 0.5})
    wanted = outputs(model, work)
    apart = [(outputs(o.network, work) - wanted).square().sum() for o in (found, without)]
    assert apart[0] < apart[1]
    assert zeros(found.masks) == zeros(without.masks)


def test_weights_that_cannot_be_solved_for_lose_their_smallest_entries() -> None:
    work, model, graph, names = prepared(Twice, 6)
    found = one_shot(work, model, graph, names, 0.5, scope="uniform")
    assert found.by_magnitude["scale"] == UNKNOWN
    assert found.by_magnitude["b.weight"] == SHARED
    assert "a.weight" in found.errors
    expected = chosen({"": magnitude(model.scale)}, 0.5)[""]  # type: ignore[arg-type]
    assert torch.equal(found.masks["scale"], expected)


def test_layers_that_are_too_wide_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MAX_COLUMNS", 17)
    _, model, graph, names = prepared(Net, 2, 6, 6)
    layers, reasons = solvable(model, graph, names)
    assert reasons["a.weight"] == WIDE and "a" not in [layer.name for layer in layers]


@pytest.mark.parametrize("block", ["2:4", "1x4", "row", "column"])
def test_patterns_hold_in_every_layer(block: str) -> None:
    work, model, graph, names = prepared(Net, 2, 6, 6)
    pattern = Pattern.parse(block)
    level = pattern.level or 0.5
    found = one_shot(work, model, graph, names, level, pattern)
    layouts = rooms.layouts_of(graph, model, names)
    for name, mask in found.masks.items():
        units = pattern.pooled(mask.float(), layouts[name])
        if not pattern.stay:
            assert ((units == 0) | (units == 1)).all()
            continue
        rows, _, columns = layouts[name].sizes(mask.shape)
        full = mask.numel() // (rows * columns) * rows * (columns // 4)
        assert int((~mask).sum()) >= 2 * full


def test_memory_that_is_limited_changes_nothing() -> None:
    work, model, graph, names = prepared(Net, 2, 6, 6)
    found = one_shot(work, model, graph, names, 0.5)
    few = one_shot(replace(work, memory=2**20), model, graph, names, 0.5)
    assert all(torch.equal(found.masks[n], few.masks[n]) for n in names)
    with pytest.raises(AmcError, match="--memory"):
        one_shot(replace(work, memory=1000), model, graph, names, 0.5)


def test_inputs_that_are_not_finite_are_refused() -> None:
    work, model, graph, names = prepared(Net, 2, 6, 6)
    with torch.no_grad():
        model.norm.bias[0] = torch.inf  # type: ignore[union-attr]
    with pytest.raises(AmcError, match="not finite"):
        one_shot(work, model, graph, names, 0.5)
