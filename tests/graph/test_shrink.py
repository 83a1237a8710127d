"""The cut against masking, and the network it was made from."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.graph.shrink import load_tensors
from amc.models import BUNDLED
from amc.models.catalog import build
from drawn_networks import (
    BUNDLED_SETTINGS,
    CASES,
    Case,
    conv,
    counted_macs,
    difference,
    frozen,
    images,
    parameters,
    random_keep,
    shaken,
    tied_weights,
)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_shrunk_model_equals_masked_model(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    case = make()
    model = shaken(case.model)
    graph = amc.trace(model, case.inputs)
    batch = case.inputs[0].shape[0]
    assert graph.macs() == counted_macs(model, case.inputs, batch)
    for seed in range(4):
        plan = random_keep(graph, seed)
        smaller = amc.shrink(model, plan)
        assert difference(smaller, amc.mask(model, plan), case.inputs) <= 1e-5
        assert graph.macs(plan) == counted_macs(smaller, case.inputs, batch)
        assert graph.params(plan) == parameters(smaller)
        again = amc.trace(smaller, case.inputs)  # attributes and tensors agree
        assert again.macs() == graph.macs(plan)


# --- the cut and the network it was made from


def test_given_model_is_untouched() -> None:
    torch.manual_seed(0)
    model = shaken(build("resnet20", num_classes=10, in_channels=3, width=0.5)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    where = {k: v.data_ptr() for k, v in model.state_dict().items()}
    graph = amc.trace(model, (images(size=8),))
    plan = random_keep(graph, 0)
    with torch.no_grad():
        for p in amc.shrink(model, plan).parameters():
            p.zero_()
        for p in amc.mask(model, plan).parameters():
            p.zero_()
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in after)
    assert {k: v.data_ptr() for k, v in after.items()} == where
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_hooks_flags_names_and_classes_are_kept() -> None:
    torch.manual_seed(0)
    model = build("mobilenet_v2", num_classes=4, in_channels=3, width=0.25).double().train()
    seen: list[tuple[int, ...]] = []
    model.features[3].register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape)))
    for p in model.features[0].parameters():
        p.requires_grad = False
    model.features[1].eval()
    model.note = "mine"
    smaller = amc.shrink(model, random_keep(graph := amc.trace(model, (images().double(),)), 3))
    assert [n for n, _ in smaller.named_modules()] == [n for n, _ in model.named_modules()]
    assert [type(m) for m in smaller.modules()] == [type(m) for m in model.modules()]
    assert [m.training for m in smaller.modules()] == [m.training for m in model.modules()]
    assert [(n, p.requires_grad, p.dtype) for n, p in smaller.named_parameters()] == [
        (n, p.requires_grad, p.dtype) for n, p in model.named_parameters()
    ]
    assert list(smaller.state_dict()) == list(model.state_dict()) and smaller.note == "mine"
    seen.clear()
    smaller(images().double())
    (shape,) = seen
    assert 1 <= shape[1] <= graph.sizes[graph.layer("features.3.conv.2.0").out_group]


def test_attributes_follow_the_tensors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), conv(8, 16, groups=8), nn.PReLU(16), conv(16, 8, groups=2),
        nn.ConvTranspose2d(8, 6, 2), nn.Flatten(), nn.Linear(6 * 49, 5), nn.Linear(5, 2),
    )  # fmt: skip
    graph = amc.trace(model, (images(),))
    assert graph.sizes == {"0": 4, "4": 4, "5": 6, "7": 5}  # 0: pairs, as layer 4 has two groups
    smaller = amc.shrink(
        model, graph.plan({"0": [0, 2, 3], "4": [1], "5": [0, 5], "7": [0, 1, 2]})
    )
    facts = [
        (m.in_channels, m.out_channels, m.groups) for m in smaller if hasattr(m, "in_channels")
    ]
    assert facts == [(3, 6, 1), (6, 12, 6), (12, 2, 2), (2, 2, 1)]
    assert (smaller[1].num_features, smaller[3].num_parameters) == (6, 12)
    assert [(m.in_features, m.out_features) for m in smaller[7:]] == [(98, 3), (3, 2)]


@pytest.mark.filterwarnings("ignore")  # a warning of the cut network must not reveal it
def test_norm_without_tensors_counts_its_channels() -> None:
    model = nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8), nn.ReLU(), conv(8, 2))
    smaller = amc.shrink(model, amc.trace(model, (images(),)).plan({"0": [1, 5, 6]}))
    assert smaller[1].num_features == 3


def test_tied_weights_stay_tied() -> None:
    case = tied_weights()
    smaller = amc.shrink(case.model, amc.trace(case.model, case.inputs).plan({"a": [1, 4]}))
    assert smaller.a.weight is smaller.b.weight
    assert smaller.a.weight.shape == (2, 3, 3, 3)


def test_kept_channels_keep_their_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8), conv(8, 4), conv(4, 2))
    graph = amc.trace(model, (images(),))
    smaller = amc.shrink(model, graph.plan({"0": [6, 1], "1": [3]}))
    assert torch.equal(smaller[0].weight, model[0].weight[[1, 6]])
    assert torch.equal(smaller[0].bias, model[0].bias[[1, 6]])
    assert torch.equal(smaller[1].weight, model[1].weight[[3]][:, [1, 6]])
    assert torch.equal(smaller[2].weight, model[2].weight[:, [3]])


def test_plan_for_another_network_is_refused_with_the_tensor() -> None:
    wide = nn.Sequential(conv(3, 8), conv(8, 2))
    plan = amc.trace(wide, (images(),)).plan({"0": [0, 1]})
    for change in (amc.shrink, amc.mask):
        with pytest.raises(amc.AmcError, match=r"another network: 0\.bias has shape \(6,\)"):
            change(nn.Sequential(conv(3, 6), conv(6, 2)), plan)
        with pytest.raises(amc.AmcError, match=r"another network: there is no tensor '0\.bias'"):
            change(nn.Sequential(nn.ReLU(), conv(6, 2)), plan)


def test_shrunk_tensors_load_into_the_original_network() -> None:
    torch.manual_seed(0)
    model = shaken(build("mobilenet_v1", num_classes=4, in_channels=3, width=0.25))
    smaller = amc.shrink(model, random_keep(amc.trace(model, (images(),)), 1))
    assert difference(load_tensors(model, smaller.state_dict()), smaller, (images(),)) == 0
    with pytest.raises(amc.AmcError, match=r"is only in the (network|file)"):
        load_tensors(nn.Sequential(conv(3, 8)), smaller.state_dict())


# --- the bundled networks


@pytest.fixture(scope="module", params=BUNDLED_SETTINGS)
def bundled(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, amc.ChannelGraph]:
    width, size = BUNDLED_SETTINGS[request.param]
    torch.manual_seed(0)
    model = shaken(build(request.param, num_classes=10, in_channels=3, width=width))
    x = images(size=size)
    return model, x, amc.trace(model, (x,))


def test_every_bundled_network_is_tested() -> None:
    assert BUNDLED_SETTINGS.keys() == BUNDLED.keys()


def test_only_ends_and_what_layer_norm_reads_are_frozen_in_a_bundled_network(
    bundled: tuple[nn.Module, Tensor, amc.ChannelGraph],
) -> None:
    _, _, graph = bundled
    reasons = [why for why in frozen(graph).values() if not why.startswith("layer_norm")]
    assert sorted(reasons) == ["network input", "network output"]


def test_shrunk_bundled_network_equals_the_masked_one(
    bundled: tuple[nn.Module, Tensor, amc.ChannelGraph],
) -> None:
    model, x, graph = bundled
    for seed in range(3):
        plan = amc.random_plan(graph, 0.5, seed) if seed else random_keep(graph, seed)
        smaller, masked = amc.shrink(model, plan), amc.mask(model, plan)
        other = torch.randn_like(x)
        assert difference(smaller, masked, (other,)) <= 1e-4
        assert difference(masked, model, (other,)) > 1e-3  # something was removed
        assert graph.macs(plan) == counted_macs(smaller, (x,), x.shape[0]) < graph.macs()
        assert graph.params(plan) == parameters(smaller) < graph.params() == parameters(model)


def test_shrunk_bundled_network_is_an_ordinary_module(
    bundled: tuple[nn.Module, Tensor, amc.ChannelGraph],
) -> None:
    model, x, graph = bundled
    smaller = amc.shrink(model, random_keep(graph, 7)).eval()
    program = torch.export.export(smaller, (x,))
    with torch.no_grad():
        expected = smaller(x)
        torch.testing.assert_close(program.module()(x), expected)
    twin = copy.deepcopy(smaller)
    for value in twin.state_dict().values():
        value.zero_()
    twin.load_state_dict(smaller.state_dict())
    assert difference(twin, smaller, (x,)) == 0

    smaller.train()
    optimizer = torch.optim.SGD(smaller.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in smaller.parameters()]
    loss = F.cross_entropy(smaller(x), torch.tensor([1, 2]))
    loss.backward()
    gradients = [p.grad for p in smaller.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > 0.5 * len(gradients)
    optimizer.step()
    for old, gradient, new in zip(before, gradients, smaller.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old - 1e-2 * gradient)
