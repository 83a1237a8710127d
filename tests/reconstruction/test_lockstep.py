"""All batches side by side: the same network in the end, whatever the model's code does."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.calibration.calibrate import calibrate
from amc.calibration.shortcuts import additions
from amc.calibration.statistics import Sampling
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.catalog import build
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.forward_profile import profile
from amc.reconstruction.layer_by_layer import _Task, compress
from amc.reconstruction.lockstep import Diverged, Lockstep, Operation
from amc.reconstruction.offload import Offload
from amc.reconstruction.one_pass import OnePass
from amc.reconstruction.original_outputs import OriginalOutputs

BATCHES = [torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (6, 5, 4)]


class Small(nn.Module):
    """Convolutions with batch norms, a shortcut, operators in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.a(x)), inplace=True)
        y = F.relu_(self.norms[1](self.b(x)))
        return self.fc(F.relu(x + self.norms[2](self.c(y))).mean((2, 3)))


class Remembers(Small):
    """Leaves a tensor on itself that it reads later: the batches get in each other's way."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = F.relu(self.norms[0](self.a(x)))
        y = F.relu(self.norms[1](self.b(self.kept)))
        y = self.norms[2](self.c(y))
        return self.fc(F.relu(self.kept.mean() + y).mean((2, 3)))


class Chooses(Small):
    """Takes another way for batches of even size."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.a(x)))
        y = F.relu(self.norms[1](self.b(x))) if len(x) % 2 else x
        return self.fc(F.relu(self.norms[2](self.c(y))).mean((2, 3)))


class Twice(Small):
    """Runs a layer twice."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.a(x)))
        x = F.relu(self.norms[1](self.b(x)))
        return self.fc(F.relu(self.norms[2](self.c(F.relu(self.b(x))))).mean((2, 3)))


def network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def prepared(kind: type[nn.Module]) -> tuple[Compressor, OriginalOutputs]:
    model = network(kind)
    labelled = [(x, torch.zeros(len(x))) for x in BATCHES]
    graph = amc.trace(model, (BATCHES[1],))
    stats = calibrate(graph, model, labelled, Sampling(0))
    compressor = Compressor(
        graph, model, stats, partial(selection_of, METRICS["lasso"], Evidence(graph, model, stats))
    )
    return compressor, OriginalOutputs(graph, model, labelled, Sampling(0))


def at_convolutions(batch: int, operation: Operation) -> tuple[int, int] | None:
    return (batch, operation.number) if operation.func is torch.conv2d else None


def no_thread_left() -> bool:
    return threading.active_count() == 1 or all(
        not t.name.startswith("pass") for t in threading.enumerate()
    )


def test_all_passes_stop_together_and_give_what_they_give_alone() -> None:
    model, stops, results = network(Small), [], dict[int, Tensor]()

    def after(batch: int, operation: Operation, out: Any) -> None:
        results[batch] = out

    Lockstep(model, BATCHES, at_convolutions, after).run(lambda found: stops.append(list(found)))
    assert [[batch for batch, _ in found] for found in stops] == 3 * [[0, 1, 2]]
    assert all(len({number for _, number in found}) == 1 for found in stops)
    with torch.no_grad():
        for batch, images in enumerate(BATCHES):
            torch.testing.assert_close(results[batch], model(images))
    assert no_thread_left()


def test_what_changes_at_a_stop_is_what_the_layer_uses() -> None:
    model, stops = network(Small), []
    found = Lockstep(model, BATCHES, at_convolutions)

    @torch.no_grad()
    def change(_: Any) -> None:
        stops.append(1)
        (model.a, model.b, model.c)[len(stops) - 1].weight.mul_(0.5)

    found.run(change)
    with torch.no_grad():
        torch.testing.assert_close(found.first, model(BATCHES[0]))


@pytest.mark.parametrize("where", ["model", "stop", "pause"])
def test_errors_come_through_and_no_thread_stays(where: str) -> None:
    model = network(Small)

    def fail(*given: Any) -> None:
        raise RuntimeError("as told")

    if where == "model":
        model.norms[2].forward = fail  # type: ignore[method-assign]
    pause: Callable[..., Any] = fail if where == "pause" else at_convolutions
    lockstep = Lockstep(model, BATCHES, pause)
    with pytest.raises(RuntimeError, match="as told"):
        lockstep.run(fail if where == "stop" else lambda found: None)
    assert no_thread_left()


def test_passes_that_do_not_stop_together_are_noticed() -> None:
    with pytest.raises(Diverged):
        Lockstep(network(Chooses), BATCHES, at_convolutions).run(lambda found: None)
    assert no_thread_left()


@pytest.mark.parametrize("kind", [Small, Remembers, Chooses, Twice])
def test_the_result_is_that_of_one_pass_per_layer(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the batches cannot go side by side, by going one after the other."""
    compressor, originals = prepared(kind)
    plan = compressor.plan({name: size // 2 for name, size in compressor.graph.sizes.items()})
    together = compress(compressor, plan, originals)
    monkeypatch.setattr("amc.reconstruction.one_pass.HELD_BYTES", 0)
    alone = compress(compressor, plan, originals)
    with torch.no_grad():
        for images in BATCHES:
            expected = alone(images)
            torch.testing.assert_close(together(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kind", "possible"), [(Small, True), (Twice, False)])
def test_layers_that_run_twice_are_not_solved_in_step(
    kind: type[nn.Module], possible: bool
) -> None:
    compressor, _ = prepared(kind)
    layers = compressor.graph.layers
    steps = OnePass(compressor.model, layers, BATCHES, Sampling(0), frozenset(), adapt=True)
    assert steps.possible == possible


class Caches(Small):
    """Makes a tensor for the first batch that all others use too."""

    table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.a(x)))
        if self.table is None:
            self.table = torch.linspace(0, 1, 8).reshape(1, 8, 1, 1).mul(1)
        y = F.relu(self.norms[1](self.b(x * self.table)))
        return self.fc(F.relu(x + self.norms[2](self.c(y)) * self.table).mean((2, 3)))


@pytest.mark.parametrize("kind", [Small, Caches])
def test_passes_that_stand_still_on_disk_come_to_the_same_bits(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    away: list[int] = []
    put = Offload.offload

    def watched(self: Offload) -> None:
        put(self)
        away.append(len(self._away))

    monkeypatch.setattr(Offload, "offload", watched)
    monkeypatch.setattr(_Task, "layer_by_layer", None)
    compressor, originals = prepared(kind)
    plan = compressor.plan({name: size // 2 for name, size in compressor.graph.sizes.items()})
    expected = compress(compressor, plan, originals, adapt=True).state_dict()
    assert not away
    originals.memory = 1000
    found = compress(compressor, plan, originals, adapt=True).state_dict()
    assert max(away) >= 2  # the shortcut, and what the layer reads
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_passes_that_read_what_is_away_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that the batches share, where nobody can tell: not on the model."""
    shared = list[Tensor]()

    def forward(self: Small, x: Tensor) -> Tensor:
        shared.append(F.relu(self.norms[0](self.a(x))))
        y = F.relu(self.norms[1](self.b(shared[0][: len(x)])))
        return self.fc(F.relu(self.norms[2](self.c(y))).mean((2, 3)))

    model = network(Small)
    graph = amc.trace(model, (BATCHES[1],))
    monkeypatch.setattr(Small, "forward", forward)
    steps = OnePass(model, graph.layers, BATCHES, Sampling(0), frozenset(), True, 1000)
    shared.clear()
    with pytest.raises(Diverged):
        steps.run(lambda name, rows: None)


def test_memory_is_that_of_the_tensors_alive_at_a_time() -> None:
    """The input of a layer and its result; not the sum over the layers."""
    model = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(10))).eval()
    images = torch.randn(3, 4, 16, 16)
    assert profile(model, [], images).bytes == 2 * images.nbytes


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "plain20"])
def test_shortcuts_are_found_where_a_layer_may_correct_them(name: str) -> None:
    model = build(name, num_classes=10, in_channels=3, width=0.5).eval()
    images = torch.randn(2, 3, 32, 32)
    graph = amc.trace(model, (images,))
    before = {
        layer for layer, later in additions(model, graph.layers, images).items() if not later
    }
    found = profile(model, graph.layers, images).shortcuts
    assert before <= set(found)
    assert bool(found) == (name != "plain20")


def test_batch_norms_get_the_statistics_of_all_images() -> None:
    compressor, originals = prepared(Small)
    plan = compressor.plan({name: size // 2 for name, size in compressor.graph.sizes.items()})
    small = compress(compressor, plan, originals, adapt=True)
    seen: dict[str, list[Tensor]] = {}
    for name, module in small.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, given, out, name=name: seen.setdefault(name, []).append(given[0])
            )
    with torch.no_grad():
        for images in BATCHES:
            small(images)
    for name, inputs in seen.items():
        norm, x = small.get_submodule(name), torch.cat(inputs).double()
        torch.testing.assert_close(
            norm.running_mean, x.mean((0, 2, 3)).float(), rtol=1e-4, atol=1e-5
        )
        var = x.movedim(1, 0).flatten(1).var(dim=1).float()
        torch.testing.assert_close(norm.running_var, var, rtol=1e-4, atol=1e-6)
    assert len(seen) == 3
