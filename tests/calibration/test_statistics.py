"""Streamed statistics against rows unfolded by torch itself."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.calibration.columns import as_columns, as_weight
from amc.calibration.rows import Rows
from amc.calibration.statistics import LayerStats, Recorder, Sampling, collect, sample_outputs
from amc.graph.groups import Layer
from amc.graph.shrink import tensors

ALL = Sampling(points=0)

Batch = tuple[Tensor, Tensor]


def layer_of(model: nn.Module, name: str, calls: int = 1) -> Layer:
    """What `amc.trace` says about a layer, as far as statistics look at it."""
    weight = tensors(model)[f"{name}.weight"]
    groups = getattr(model.get_submodule(name), "groups", 1)
    return Layer(
        name, f"{name}.weight", None, "conv", 1, 0, weight.shape[1] * groups, weight.shape[0],
        0, 0, calls, 0, 0, 0, 0, groups, "",
    )  # fmt: skip


class One(nn.Module):
    """A network of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labelled(*parts: Tensor) -> list[Batch]:
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in parts]


def expected_rows(x: Tensor, y: Tensor, layer: nn.Conv2d, pad: Sequence[int]) -> Rows:
    """X by `F.unfold` of an image padded here, Y from the layer's output, grouped."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, list(pad), mode=mode)
    unfolded = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    flat = unfolded.mT.flatten(0, 1)  # [B * positions, C_in * K]
    out = y.flatten(2).mT.flatten(0, 1)
    if layer.bias is not None:
        out = out - layer.bias
    per_group = [t.reshape(len(flat), layer.groups, -1).transpose(0, 1) for t in (flat, out)]
    return Rows(*(t.detach() for t in per_group))


def assert_moments(found: LayerStats, rows: Rows) -> None:
    x, y = rows.x.double(), rows.y.double()
    assert found.rows == x.shape[1]
    assert found.xx.dtype == found.xy.dtype == found.yy.dtype == torch.float64
    torch.testing.assert_close(found.xx, x.mT @ x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.xy, x.mT @ y, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.yy, (y * y).sum(dim=1), rtol=1e-6, atol=1e-5)


def row_set(x: Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in x.tolist()]


CONVOLUTIONS: list[tuple[str, dict[str, Any], Sequence[int]]] = [
    ("plain", dict(kernel_size=3), (0, 0, 0, 0)),
    ("pointwise", dict(kernel_size=1, bias=False), (0, 0, 0, 0)),
    ("pointwise, stride", dict(kernel_size=1, stride=2), (0, 0, 0, 0)),
    ("padding", dict(kernel_size=3, padding=1, bias=False), (1, 1, 1, 1)),
    ("even kernel", dict(kernel_size=2, padding=1), (1, 1, 1, 1)),
    ("stride", dict(kernel_size=3, stride=2, padding=1), (1, 1, 1, 1)),
    ("dilation", dict(kernel_size=3, dilation=2, padding=2), (2, 2, 2, 2)),
    ("groups", dict(kernel_size=3, groups=2, padding=1), (1, 1, 1, 1)),
    ("all", dict(kernel_size=3, stride=2, padding=2, dilation=2, groups=2), (2, 2, 2, 2)),
    ("depthwise", dict(kernel_size=3, groups=4), (0, 0, 0, 0)),
    ("asymmetric kernel", dict(kernel_size=(1, 5), padding=(0, 2)), (2, 2, 0, 0)),
    ("asymmetric stride", dict(kernel_size=3, stride=(2, 1)), (0, 0, 0, 0)),
    (
        "asymmetric everything",
        dict(kernel_size=(2, 3), stride=(3, 1), padding=(1, 2), dilation=(1, 2)),
        (2, 2, 1, 1),
    ),
    ("valid", dict(kernel_size=3, padding="valid"), (0, 0, 0, 0)),
    ("same", dict(kernel_size=3, padding="same"), (1, 1, 1, 1)),
    ("same, even", dict(kernel_size=(4, 2), padding="same"), (0, 1, 1, 2)),
    ("same, dilated", dict(kernel_size=(2, 3), padding="same", dilation=3), (3, 3, 1, 2)),
    ("reflect", dict(kernel_size=3, padding=2, padding_mode="reflect"), (2, 2, 2, 2)),
    ("circular", dict(kernel_size=3, padding=(1, 2), padding_mode="circular"), (2, 2, 1, 1)),
    (
        "same, replicate",
        dict(kernel_size=(2, 3), padding="same", padding_mode="replicate"),
        (1, 1, 0, 1),
    ),
]


# torch says that an even kernel with 'same' padding copies its input
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize(
    ("options", "pad"), [c[1:] for c in CONVOLUTIONS], ids=[c[0] for c in CONVOLUTIONS]
)
def test_convolution_moments_equal_those_of_unfolded_images(
    options: dict[str, Any], pad: Sequence[int]
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, **options)
    model, x = One(layer), images(5, 4, 9, 7)
    rows = expected_rows(x, layer(x), layer, pad)
    found = collect(model, [layer_of(model, "layer")], labelled(x[:3], x[3:]), ALL)["layer"]
    assert_moments(found, rows)
    # and the rows are those of the regression: X W = Y with the layer's own weight
    w = as_columns(layer.weight, layer_of(model, "layer"))
    torch.testing.assert_close(rows.x.double() @ w, rows.y.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.xx @ w, found.xy, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_survives_the_way_to_columns_and_back(groups: int) -> None:
    model = One(nn.Conv2d(4, 6, (3, 2), groups=groups))
    weight = model.layer.weight.detach()
    columns = as_columns(weight, layer_of(model, "layer"))
    assert columns.shape == (groups, 4 // groups * 6, 6 // groups)
    assert torch.equal(as_weight(columns, weight), weight)


def test_conv1d_moments_equal_those_of_unfolded_sequences() -> None:
    layer = nn.Conv1d(3, 5, 4, stride=2, padding=3, dilation=2)
    model, x = One(layer), images(4, 3, 15)
    padded = F.pad(x, (3, 3))
    taps = [padded[:, :, i * 2 :][:, :, :15:2] for i in range(4)]
    length = layer(x).shape[-1]
    flat = torch.stack([t[:, :, :length] for t in taps], dim=-1)  # [B, C, P, K]
    rows = flat.movedim(1, 2).flatten(2).flatten(0, 1)[None]
    y = (layer(x) - layer.bias[:, None]).mT.flatten(0, 1)[None].detach()
    found = collect(model, [layer_of(model, "layer")], labelled(x), ALL)["layer"]
    assert_moments(found, Rows(rows, y))


def test_conv3d_moments_solve_for_the_layer_itself() -> None:
    """`F.unfold` has no third dimension; patches are taken with `Tensor.unfold`."""
    layer = nn.Conv3d(2, 4, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1), groups=2)
    model, x = One(layer), images(3, 2, 4, 7, 5)
    padded = F.pad(x, (1, 1, 1, 1, 0, 0))
    patches = padded.unfold(2, 2, 1).unfold(3, 3, 2).unfold(4, 2, 1)  # [B, C, D, H, W, 2, 3, 2]
    flat = patches.flatten(5).flatten(2, 4).movedim(1, 2).flatten(0, 1)  # [B P, C, 12]
    y = (layer(x) - layer.bias[:, None, None, None]).flatten(2).mT.flatten(0, 1).detach()
    rows = Rows(flat.movedim(1, 0), y.reshape(len(y), 2, 2).movedim(1, 0))
    found = collect(model, [layer_of(model, "layer")], labelled(x), ALL)["layer"]
    assert_moments(found, rows)


@pytest.mark.parametrize("shape", [(6, 5), (6, 7, 5), (6, 2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_moments_treat_every_token_as_a_row(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(5, 3, bias=bias)
    model, x = One(layer), images(*shape)
    y = x @ layer.weight.detach().T
    found = collect(model, [layer_of(model, "layer")], labelled(x[:4], x[4:]), ALL)["layer"]
    assert_moments(found, Rows(x.reshape(1, -1, 5), y.reshape(1, -1, 3)))


class Functional(nn.Module):
    """A convolution without a module, once with positional and once with named arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(images(6, 2, 3, 3, seed=1))
        self.offset = nn.Parameter(images(6, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        once = F.conv2d(x, self.kernel, self.offset, 2, 1, 1, 2)
        again = F.conv2d(x, weight=self.kernel, padding=1, groups=2)
        return once.sum() + again.sum()


def test_functional_layers_are_seen_in_every_form_of_the_call() -> None:
    model, x = Functional(), images(3, 4, 6, 6)
    layer = Layer(
        "kernel", "kernel", "offset", "conv2d", 1, 0, 4, 6, 0, 0, 2, 6, 6, 2, 3, 2, ""
    )  # fmt: skip
    strided, dense = nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.Conv2d(4, 6, 3, 1, 1, groups=2)
    parts = []
    for conv in (strided, dense):
        conv.weight.data, conv.bias.data = model.kernel.data, model.offset.data
        parts.append(expected_rows(x, conv(x), conv, (1, 1, 1, 1)))
    rows = Rows(torch.cat([p.x for p in parts], 1), torch.cat([p.y for p in parts], 1))
    assert_moments(collect(model, [layer], labelled(x), ALL)["kernel"], rows)


class Twice(nn.Module):
    """One convolution used at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.late = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.shared(F.relu(self.shared(self.first(x)))))


def test_a_layer_used_twice_gives_the_rows_of_both_places() -> None:
    torch.manual_seed(0)
    model, x = Twice(), images(3, 3, 5, 5)
    layer = next(v for v in amc.trace(model, (x,)).layers if v.name == "shared")
    assert layer.calls == 2
    before = model.first(x)
    between = model.shared(before)
    parts = [
        expected_rows(v, model.shared(v), model.shared, (1, 1, 1, 1))
        for v in (before, F.relu(between))
    ]
    rows = Rows(torch.cat([p.x for p in parts], 1), torch.cat([p.y for p in parts], 1))
    assert_moments(collect(model, [layer], labelled(x), ALL)["shared"], rows)


def test_sampled_rows_are_distinct_rows_of_the_whole() -> None:
    model, x = One(nn.Conv2d(3, 4, 3, stride=2, padding=1)), images(2, 3, 9, 9)
    layer = layer_of(model, "layer")
    whole = Recorder(model, [layer], ALL).run(x, 0)["layer"][0]
    found = Recorder(model, [layer], Sampling(7, seed=3)).run(x, 0)["layer"][0]
    assert found.x.shape == (1, 2 * 7, 27)
    pairs = row_set(torch.cat([whole.x[0], whole.y[0]], dim=1).detach())
    sampled = row_set(torch.cat([found.x[0], found.y[0]], dim=1).detach())
    assert set(sampled) <= set(pairs)
    assert len(set(sampled)) == 14


def test_sampled_positions_are_the_same_for_all_images_of_a_batch() -> None:
    model, x = One(nn.Conv2d(3, 4, 1)), images(1, 3, 8, 8).repeat(5, 1, 1, 1)
    found = Recorder(model, [layer_of(model, "layer")], Sampling(6)).run(x, 0)["layer"][0]
    per_image = found.x.reshape(5, 6, 3)
    assert torch.equal(per_image, per_image[:1].expand_as(per_image))


def test_sampled_rows_multiply_with_the_weight_to_their_targets() -> None:
    torch.manual_seed(0)
    model = One(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2))
    layer = layer_of(model, "layer")
    found = Recorder(model, [layer], Sampling(5)).run(images(3, 4, 8, 8), 0)["layer"][0]
    predicted = found.x.double() @ as_columns(model.layer.weight, layer)
    torch.testing.assert_close(predicted, found.y.double(), rtol=1e-4, atol=1e-4)


def test_positions_follow_from_seed_layer_and_batch_alone() -> None:
    sampling = Sampling(10, seed=1)
    first = sampling.positions("a", 0, 200)
    torch.manual_seed(99)  # the global generator plays no part
    assert torch.equal(first, sampling.positions("a", 0, 200))
    others = [
        Sampling(10, seed=2).positions("a", 0, 200),
        sampling.positions("b", 0, 200),
        sampling.positions("a", 1, 200),
    ]
    for other in others:
        assert not torch.equal(first, other)
    for chosen in (first, *others):
        assert len(chosen) == 10 and (chosen.diff() > 0).all()
        assert 0 <= chosen[0] and chosen[-1] < 200
    assert torch.equal(Sampling(10).positions("a", 0, 7), torch.arange(7))


def test_all_positions_are_about_equally_likely() -> None:
    counts = torch.zeros(20)
    for batch in range(2000):
        counts[Sampling(5).positions("layer", batch, 20)] += 1
    assert counts.sum() == 10_000
    # binomial(2000, 1/4): mean 500, standard deviation 19.4
    assert (counts - 500).abs().max() < 5 * math.sqrt(2000 * 0.25 * 0.75)


def test_same_seed_same_statistics_other_seed_others() -> None:
    model, x = One(nn.Conv2d(3, 4, 3)), images(4, 3, 12, 12)
    layers = [layer_of(model, "layer")]
    a, b, c = (
        collect(model, layers, labelled(x), Sampling(5, seed))["layer"].xx for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


@pytest.mark.parametrize("sizes", [[10], [5, 5], [4, 4, 2], [1] * 10])
def test_all_positions_do_not_depend_on_the_split_into_batches(sizes: list[int]) -> None:
    """With incomplete last batches too."""
    torch.manual_seed(0)
    model, x = One(nn.Conv2d(3, 4, 3, padding=1)), images(10, 3, 6, 6)
    layers = [layer_of(model, "layer")]
    whole = collect(model, layers, labelled(x), ALL)["layer"]
    parts = collect(model, layers, labelled(*x.split(sizes)), ALL)["layer"]
    assert parts.rows == whole.rows == 360
    torch.testing.assert_close(parts.xx, whole.xx)
    torch.testing.assert_close(parts.xy, whole.xy, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(parts.yy, whole.yy)


def test_incomplete_last_batch_is_sampled_at_as_many_positions() -> None:
    model, x = One(nn.Conv2d(3, 4, 3)), images(7, 3, 8, 8)
    found = collect(model, [layer_of(model, "layer")], labelled(x[:4], x[4:]), Sampling(9))
    assert found["layer"].rows == 7 * 9


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.second = nn.Dropout(0.5), nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.drop(F.relu(self.norm(self.first(x)))))


def test_inputs_come_from_the_network_and_outputs_from_the_target() -> None:
    torch.manual_seed(0)
    model, target, x = Two().eval(), Two().eval(), images(4, 3, 6, 6)
    layers = [layer_of(model, "second")]
    seen = F.relu(model.norm(model.first(x)))
    outputs = target(x)  # its own bias is taken off, not the model's
    rows = expected_rows(seen, outputs, target.second, (1, 1, 1, 1))
    assert_moments(
        collect(model, layers, labelled(x), ALL, sample_outputs(target, layers, labelled(x), ALL))[
            "second"
        ],
        rows,
    )


def test_target_with_other_widths_gives_the_original_outputs() -> None:
    """As in a network whose layers were cut already: fewer inputs, all outputs."""
    torch.manual_seed(0)
    target, x = Two().eval(), images(4, 3, 6, 6)
    graph = amc.trace(target, (x,))
    model = amc.shrink(target, graph.plan({"first": [0, 2]}))
    layers = [graph.layer("second")]
    seen = F.relu(target.norm(target.first(x)))[:, [0, 2]]
    small = nn.Conv2d(2, 5, 3, padding=1)
    small.bias.data = target.second.bias.data
    rows = expected_rows(seen, target(x), small, (1, 1, 1, 1))
    assert_moments(
        collect(model, layers, labelled(x), ALL, sample_outputs(target, layers, labelled(x), ALL))[
            "second"
        ],
        rows,
    )


def test_modes_and_running_statistics_stay_as_they_were() -> None:
    model, target = Two().train(), Two().train()
    for one in (model, target):
        one.drop.eval()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (model, target)]
    layers = [layer_of(model, "second")]
    x = labelled(images(4, 3, 6, 6))
    collect(model, layers, x, ALL, sample_outputs(target, layers, x, ALL))
    for one, state in zip((model, target), before, strict=True):
        assert one.training and one.norm.training and one.first.training
        assert not one.drop.training
        assert all(torch.equal(v, state[k]) for k, v in one.state_dict().items())
        assert all(p.grad is None for p in one.parameters())


def test_rows_are_those_of_eval_mode() -> None:
    """In training mode dropout and batch statistics would enter the rows."""
    torch.manual_seed(0)
    model, x = Two(), images(4, 3, 6, 6)
    layers = [layer_of(model, "second")]
    train = collect(model.train(), layers, labelled(x), ALL)["second"]
    evaluated = collect(model.eval(), layers, labelled(x), ALL)["second"]
    assert torch.equal(train.xx, evaluated.xx)
    rows = expected_rows(F.relu(model.norm(model.first(x))), model(x), model.second, (1,) * 4)
    assert_moments(evaluated, rows)


def test_size_of_the_statistics_does_not_grow_with_the_batches() -> None:
    model, x = One(nn.Conv2d(3, 4, 3)), images(2, 3, 6, 6)
    layers = [layer_of(model, "layer")]

    def held(batches: int) -> int:
        found = collect(model, layers, labelled(*[x] * batches), ALL)["layer"]
        assert found.rows == batches * 2 * 16
        return sum(t.untyped_storage().nbytes() for t in (found.xx, found.xy, found.yy))

    assert held(1) == held(50) == 8 * (27 * 27 + 27 * 4 + 4)


def test_nothing_behind_the_last_wanted_layer_is_run() -> None:
    model, reached = Twice(), []
    model.late.register_forward_hook(lambda *_: reached.append("late"))
    model.first.register_forward_hook(lambda *_: reached.append("first"))
    collect(model, [layer_of(model, "shared", 2)], labelled(images(2, 3, 5, 5)), ALL)
    assert reached == ["first"]


def test_batches_are_reported_and_no_batches_give_no_statistics() -> None:
    model, x, seen = One(nn.Conv2d(3, 4, 3)), images(2, 3, 6, 6), []
    layers = [layer_of(model, "layer")]
    collect(model, layers, labelled(x, x, x), ALL, on_batch=lambda: seen.append(1))
    assert len(seen) == 3
    assert collect(model, layers, [], ALL) == {}


def test_some_outputs_are_those_of_a_layer_with_only_them() -> None:
    torch.manual_seed(0)
    model, x = One(nn.Conv2d(4, 6, 3, groups=2)), images(3, 4, 6, 6)
    part = One(nn.Conv2d(4, 4, 3, groups=2))
    kept = torch.tensor([0, 2, 3, 5])  # outputs 0 and 2 of both groups
    part.layer.weight.data = model.layer.weight.data[kept]
    part.layer.bias.data = model.layer.bias.data[kept]
    whole, wanted = (
        Recorder(m, [layer_of(m, "layer")], ALL).run(x, 0)["layer"][0] for m in (model, part)
    )
    found = replace(whole, shortcut=whole.y + 1).select(torch.tensor([0, 2]))
    assert torch.equal(found.x, wanted.x) and found.shortcut is not None
    torch.testing.assert_close(found.y, wanted.y)
    torch.testing.assert_close(found.shortcut, wanted.y + 1)
    assert whole.select(torch.tensor([1])).shortcut is None
