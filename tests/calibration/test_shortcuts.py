"""Shortcuts' errors corrected by the branch, against networks whose sums can be made exact."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.calibration.calibrate import calibrate
from amc.calibration.shortcuts import FAINT, additions
from amc.calibration.statistics import Recorder, Sampling, collect, sample_outputs
from amc.graph.groups import Layer
from amc.graph.shrink import tensors
from amc.metrics import METRICS, Evidence, selection_of
from amc.reconstruction import original_outputs
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import compress
from amc.reconstruction.original_outputs import OriginalOutputs

ALL = Sampling(0)
IMAGES = torch.randn(60, 4, 5, 5, generator=torch.Generator().manual_seed(0))
BATCHES = [(part, torch.zeros(len(part))) for part in IMAGES.split(25)]

Join = Callable[[Tensor, Tensor], Tensor]


def plus(out: Tensor, shortcut: Tensor) -> Tensor:
    return out + shortcut


class Linear(nn.Module):
    """No activations: four image channels, so that four of a layer's channels tell everything.

    The shortcut goes through few channels (`narrow`), the branch through many (`wide`).
    """

    def __init__(self, join: Join = plus, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.narrow, self.short = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 1)
        self.wide, self.branch = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1)
        self.norm = nn.Identity() if norm is None else norm
        self.join, self.last = join, nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.short(self.narrow(x))
        return self.last(self.join(self.norm(self.branch(self.wide(x))), shortcut))


def lively_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.4, -1.5, 2.0]))
        norm.bias.copy_(torch.tensor([0.3, -0.1, 0.2]))
        norm.running_mean.copy_(torch.tensor([0.1, 0.5, -0.4]))
        norm.running_var.copy_(torch.tensor([0.2, 3.0, 1.0]))
    return norm


def network(join: Join = plus, norm: nn.Module | None = None) -> Linear:
    torch.manual_seed(0)
    return Linear(join, norm).eval()


def prepared(model: nn.Module, sampling: Sampling = ALL) -> tuple[Compressor, OriginalOutputs]:
    graph = amc.trace(model, (IMAGES[:2],))
    stats = calibrate(graph, model, BATCHES, sampling)
    compressor = Compressor(
        graph, model, stats, partial(selection_of, METRICS["l1"], Evidence(graph, model, stats))
    )
    return compressor, OriginalOutputs(graph, model, BATCHES, sampling)


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IMAGES)


def found(model: nn.Module) -> dict[str, frozenset[str]]:
    layers = amc.trace(model, (IMAGES[:2],)).layers
    return additions(model, layers, IMAGES[:2])


def in_place(out: Tensor, shortcut: Tensor) -> Tensor:
    out += shortcut
    return out


def into_the_shortcut(out: Tensor, shortcut: Tensor) -> Tensor:
    shortcut += out
    return shortcut


def after_a_look(out: Tensor, shortcut: Tensor) -> Tensor:
    assert out.shape == shortcut.shape and out.dim() == len(out.size())
    return F.dropout(out, 0.5, training=False) + shortcut


STRATEGY = {"narrow": 2, "wide": 5}


@pytest.mark.parametrize("norm", [None, lively_norm()], ids=["bare", "batch norm"])
@pytest.mark.parametrize("join", [plus, in_place, into_the_shortcut])
def test_branch_cancels_the_error_of_the_shortcut(join: Join, norm: nn.Module | None) -> None:
    """Two channels cannot carry the shortcut, five carry any linear function of the image."""
    model = network(join, norm)
    compressor, originals = prepared(model)
    assert originals.additions == {"short": {"branch"}, "branch": frozenset()}
    plan = compressor.plan(STRATEGY)
    corrected = compress(compressor, plan, originals)
    torch.testing.assert_close(outputs(corrected), outputs(model), rtol=1e-3, atol=1e-3)
    originals.__dict__["additions"] = {}
    uncorrected = compress(compressor, plan, originals)
    assert (outputs(uncorrected) - outputs(model)).abs().max() > 0.03


def test_correction_is_the_least_squares_fit_of_what_the_sum_lacks() -> None:
    """With too few channels for an exact sum, and one of its channels removed."""
    model = network(norm=lively_norm())
    compressor, originals = prepared(model)
    plan = compressor.plan({"narrow": 2, "wide": 3, "short": 2})
    small = compress(compressor, plan, originals)
    kept = list(plan.groups["short"].keep)
    with torch.no_grad():
        x, lost = small.wide(IMAGES), model.short(model.narrow(IMAGES))[:, kept]
        lost = lost - small.short(small.narrow(IMAGES))
        norm = model.norm
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[kept, None, None]
        y = model.branch(model.wide(IMAGES))[:, kept] - model.branch.bias[kept, None, None]
    rows = [t.flatten(2).mT.flatten(0, 1).double().numpy() for t in (x, y + lost / scale)]
    expected = np.linalg.lstsq(*rows, rcond=None)[0].T
    np.testing.assert_allclose(
        small.branch.weight.detach()[:, :, 0, 0], expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("short", [[0, 1, 2], [0, 1]])
def test_channels_that_are_not_heard_correct_nothing(short: list[int]) -> None:
    """Also when the loudest channel is removed, which tells what is not heard."""
    norm = lively_norm()
    with torch.no_grad():
        norm.weight[1] = FAINT * norm.weight[2]
    model = network(norm=norm)
    compressor, originals = prepared(model)
    plan = compressor.graph.plan({"narrow": [1, 2], "wide": [0, 2, 4, 5, 7], "short": short})
    corrected = compress(compressor, plan, originals)
    originals.__dict__["additions"] = {}
    uncorrected = compress(compressor, plan, originals)
    difference = (corrected.branch.weight - uncorrected.branch.weight).abs().amax((1, 2, 3))
    assert difference[1] < 1e-5 < 0.01 < difference[0]


class TwoPaths(nn.Module):
    """A down-sampling block: both operands of the addition are scaled outputs of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (
            nn.Conv2d(4, 8, 1), nn.Conv2d(8, 6, 3, 2, 1), nn.Conv2d(6, 5, 3, 1, 1)
        )  # fmt: skip
        self.short, self.last = nn.Conv2d(8, 5, 1, 2), nn.Conv2d(5, 2, 1)
        self.a, self.b = nn.BatchNorm2d(5), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out = self.a(self.outer(F.relu(self.inner(x))))
        return self.last(F.relu(out + self.b(self.short(x))))


def test_of_two_solved_operands_only_the_last_one_is_corrected() -> None:
    torch.manual_seed(0)
    model = TwoPaths().eval()
    compressor, originals = prepared(model)
    assert originals.additions == {"outer": {"short"}, "short": frozenset()}

    def apart(strategy: dict[str, int]) -> list[str]:
        """Layers whose weights are others than without correction."""
        plan, (_, plain) = compressor.plan(strategy), prepared(model)
        plain.__dict__["additions"] = {}
        a, b = (tensors(compress(compressor, plan, o)) for o in (originals, plain))
        return [name for name in a if not torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-4)]

    assert apart({"stem": 4, "inner": 3}) == ["short.weight"]
    assert apart({"inner": 3}) == []  # the shortcut is right: nothing to correct


class Body(nn.Module):
    """One layer with whatever is done to its output, and a shortcut."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.layer, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)
        self.join, self.norm = join, nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> object:
        return self.join(self.layer(x), x)


ADDITIONS: dict[str, Join] = {
    "out + shortcut": plus,
    "shortcut + out": lambda out, shortcut: shortcut + out,
    "torch.add": torch.add,
    "named": lambda out, shortcut: torch.add(input=shortcut, other=out, alpha=1),
    "method": lambda out, shortcut: out.add(shortcut),
    "out += shortcut": in_place,
    "shortcut += out": into_the_shortcut,
    "add_": lambda out, shortcut: out.add_(shortcut),
    "relu in place afterwards": lambda out, shortcut: F.relu_(out + shortcut),
    "looked at before": after_a_look,
}

LAYER = Layer(
    "layer", "layer.weight", None, "conv", 1, 0, 4, 4, 0, 0, 1, 0, 0, 0, 0, 1, ""
)  # fmt: skip


def relu_first(out: Tensor, shortcut: Tensor) -> Tensor:
    F.relu_(out)
    return out + shortcut


def written_through_a_view(out: Tensor, shortcut: Tensor) -> Tensor:
    out[:, 0] = 0
    return out + shortcut


def kept_elsewhere(out: Tensor, shortcut: Tensor) -> Tensor:
    store = torch.zeros_like(shortcut)
    store[:] = out
    return out + shortcut + store


OTHERS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "times two": lambda out, x: torch.add(x, out, alpha=2),
    "difference": lambda out, x: out - x,
    "number": lambda out, x: (out + 1).mean() + x,
    "activation": lambda out, x: F.relu(out) + x,
    "activation in place": relu_first,
    "written": written_through_a_view,
    "with itself": lambda out, x: out + out,
    "broadcast": lambda out, x: out + x[:, :, :1, :1],
    "scaled": lambda out, x: 0.5 * out + x,
    "layer norm": lambda out, x: F.layer_norm(out, out.shape[1:]) + x,
    "norm of the batch": lambda out, x: F.batch_norm(out, None, None, training=True) + x,
    "used before": lambda out, x: F.relu(out) * (out + x),
    "used afterwards": lambda out, x: (out + x) * out.sigmoid(),
    "added twice": lambda out, x: (out + x) * (x + out),
    "concatenated": lambda out, x: torch.cat([out + x, out], 1),
    "copied": kept_elsewhere,
    "returned": lambda out, x: {"sum": out + x, "features": [out]},
    "own function": lambda out, x: out + out.detach(),
}


@pytest.mark.parametrize("join", OTHERS.values(), ids=OTHERS.keys())
def test_anything_but_a_plain_addition_is_left_alone(join: Join) -> None:
    assert additions(Body(join).eval(), [LAYER], IMAGES[:2]) == {}


@pytest.mark.parametrize("join", ADDITIONS.values(), ids=ADDITIONS.keys())
def test_every_form_of_addition_is_seen(join: Join) -> None:
    model, x = Body(join).eval(), IMAGES.clone()
    assert additions(model, [LAYER], IMAGES[:2].clone()) == {"layer": frozenset()}
    row = Recorder(model, [LAYER], ALL, additions=["layer"]).run(x, 0)["layer"][0]
    assert row.shortcut is not None
    assert torch.equal(row.shortcut[0], IMAGES.flatten(2).mT.flatten(0, 1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for _ in range(2):
            x = F.relu(x + self.layer(x))
        return self.last(x)


def test_layers_that_are_executed_several_times_are_left_alone() -> None:
    """Their first execution is in the shortcut of the second."""
    assert found(Recurrent().eval()) == {}


class Tokens(nn.Module):
    """[B, T, C]: batch norm takes the tokens for channels."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(5, 7), nn.Linear(7, 5), norm
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).mT[:, :5, [0, 1, 2, 3, 3]]
        return self.last(x + self.norm(self.second(F.relu(self.first(x)))))


def test_channels_of_a_linear_layer_are_its_last_dimension() -> None:
    assert found(Tokens(nn.Dropout()).eval()) == {"second": frozenset()}
    assert found(Tokens(nn.BatchNorm1d(5)).eval()) == {}


@pytest.mark.parametrize("points", [0, 3])
@pytest.mark.parametrize("join", [plus, in_place, into_the_shortcut])
def test_shortcuts_are_read_at_the_positions_of_the_layer(join: Join, points: int) -> None:
    model, sampling = network(join, lively_norm()), Sampling(points)
    layer = amc.trace(model, (IMAGES[:2],)).layer("branch")
    row = Recorder(model, [layer], sampling, additions=["branch"]).run(IMAGES, 3)["branch"][0]
    chosen = sampling.positions("branch#0", 3, 25)
    with torch.no_grad():
        every = model.short(model.narrow(IMAGES)).flatten(2)
    assert row.shortcut is not None and row.gain is not None
    assert torch.equal(row.shortcut[0], every[:, :, chosen].mT.flatten(0, 1))
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    torch.testing.assert_close(row.gain[0, 0], 1 / scale)


def test_nothing_behind_the_addition_is_run() -> None:
    model, reached = network(norm=lively_norm()), []
    for name in ("branch", "norm", "last"):
        model.get_submodule(name).register_forward_hook(lambda *_, n=name: reached.append(n))
    layers = [amc.trace(model, (IMAGES[:2],)).layer("branch")]
    reached.clear()
    collect(model, layers, BATCHES[:1], ALL)
    assert reached == []
    target = sample_outputs(model, layers, BATCHES[:1], ALL, ["branch"])
    assert reached == ["branch", "norm"]
    reached.clear()
    collect(model, layers, BATCHES[:1], ALL, target, ["branch"])
    assert reached == ["branch", "norm"]


def test_addition_that_does_not_come_leaves_the_target_alone() -> None:
    """A network that decides anew on every run."""
    model = network()
    layers = [amc.trace(model, (IMAGES[:2],)).layer("branch")]
    whole = sample_outputs(model, layers, BATCHES, ALL, ["branch"])
    model.join = lambda out, shortcut: out
    bare = sample_outputs(model, layers, BATCHES, ALL, ["branch"])
    expected = collect(model, layers, BATCHES, ALL)["branch"]
    for target in (whole, bare):
        stats = collect(model, layers, BATCHES, ALL, target, ["branch"])["branch"]
        torch.testing.assert_close(stats.xy, expected.xy)


ROW_BYTES = 4 * 60 * 25


@pytest.mark.parametrize(
    ("limit", "times"),
    [(ROW_BYTES * 14, 1), (ROW_BYTES * 12, 2), (1, 2 + 3)],
    ids=["all fit", "branch and shortcut fit", "none fit"],
)
def test_original_network_is_sampled_once_for_all_plans_if_it_fits(
    monkeypatch: pytest.MonkeyPatch, limit: int, times: int
) -> None:
    """Three outputs and three of the other operand for `short` and `branch`, two for `last`."""
    model = network(norm=lively_norm())
    compressor, originals = prepared(model)
    plans = [compressor.plan(s) for s in (STRATEGY, {"narrow": 3, "wide": 5, "short": 2})]
    expected = [outputs(compress(compressor, plan, prepared(model)[1])) for plan in plans]
    monkeypatch.setattr(original_outputs, "OUTPUT_BYTES", limit)
    assert originals.additions  # looked for once, on two images
    runs: list[nn.Module] = []
    model.wide.register_forward_hook(lambda module, *_: runs.append(module))
    for plan, wanted in zip(plans, expected, strict=True):
        assert torch.equal(outputs(compress(compressor, plan, originals)), wanted)
    assert sum(module is model.wide for module in runs) == times * len(BATCHES)
