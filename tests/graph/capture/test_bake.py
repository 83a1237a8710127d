"""Layers whose weight is computed in forward become plain ones with the same outputs."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import amc


class StandardisedConv(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019), as in BiT."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        deviation = self.weight.std((1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (deviation + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class ScaledLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 0.5, self.bias)


class PaddedConv(nn.Conv2d):
    """Pads by itself: a plain layer with the same attributes has another output."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight * 2, self.bias)


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "standardised": lambda: StandardisedConv(8, 6, 3, padding=1),
    "standardised, grouped, strided": lambda: StandardisedConv(8, 6, 3, stride=2, groups=2),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(8, 6, 3)),
    "weight norm by hook": lambda: old_weight_norm(nn.Conv2d(8, 6, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(8, 6, 3, bias=False)),
    "circular padding": lambda: parametrizations.weight_norm(
        nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular")
    ),
}


TRANSPOSED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(nn.ConvTranspose2d(8, 6, 3, stride=2)),
    "by hook": lambda: old_weight_norm(nn.ConvTranspose2d(8, 6, 3, groups=2)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.ConvTranspose2d(8, 6, 3)),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolution_is_baked(name: str) -> None:
    torch.manual_seed(0)
    model = network(TRANSPOSED[name]())
    x, other = torch.randn(2, 3, 9, 9), torch.randn(3, 3, 9, 9)
    baked = amc.bake(model, (x,))
    torch.testing.assert_close(baked(other), model(other), rtol=1e-4, atol=1e-5)
    assert amc.graph.capture.bake.baked_layers(model, baked) == ["1", "5"]
    graph = amc.trace(baked, (x,))
    assert set(graph.sizes) == {"0", "1", "5"}
    plan = amc.random_plan(graph, 0.5)
    torch.testing.assert_close(amc.shrink(baked, plan)(other), amc.mask(baked, plan)(other))


def test_size_of_the_output_is_given_to_the_plain_layer() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = parametrizations.weight_norm(nn.ConvTranspose1d(3, 4, 3, stride=2))

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x, output_size=[14]).mul_(2)  # what the layer gave is written over

    model, x = Up(), torch.randn(2, 3, 6)
    baked = amc.bake(model, (x,))
    assert amc.graph.capture.bake.baked_layers(model, baked) == ["up"]
    torch.testing.assert_close(baked(x), model(x))


def network(layer: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ScaledLinear(6, 5), nn.Linear(5, 2),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_baked_network_has_the_same_outputs_and_can_be_cut(name: str) -> None:
    torch.manual_seed(0)
    model = network(LAYERS[name]())
    x, other = torch.randn(2, 3, 9, 9), torch.randn(3, 3, 9, 9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert "1" not in amc.trace(model, (x,)).sizes  # as it is, nothing can be cut there
    baked = amc.bake(model, (x,))
    torch.testing.assert_close(baked(other), model(other), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert amc.graph.capture.bake.baked_layers(model, baked) == ["1", "5"]
    assert type(baked[1]) is nn.Conv2d and type(baked[5]) is nn.Linear
    assert (
        list(dict(baked[1].named_parameters()))
        == ["weight", "bias"][: 1 + (baked[1].bias is not None)]
    )

    graph = amc.trace(baked, (x,))
    assert set(graph.sizes) == {"0", "1", "5"}
    plan = amc.random_plan(graph, 0.5)
    smaller = amc.shrink(baked, plan)
    torch.testing.assert_close(smaller(other), amc.mask(baked, plan)(other))
    smaller(other).sum().backward()
    assert all(p.grad is not None for p in smaller.parameters())


def test_layer_that_does_more_than_its_operator_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    model = network(PaddedConv(8, 6, 3))
    baked = amc.bake(model, (torch.randn(2, 3, 9, 9),))
    assert isinstance(baked[1], PaddedConv)
    assert amc.graph.capture.bake.baked_layers(model, baked) == ["5"]


def test_modes_and_hooks_stay() -> None:
    model = network(StandardisedConv(8, 6, 3)).train()
    model[2].eval()
    seen: list[int] = []
    model[1].register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    x = torch.randn(2, 3, 9, 9)
    baked = amc.bake(model, (x,))
    assert [m.training for m in baked] == [m.training for m in model]
    seen.clear()
    baked(x)
    assert seen == [6]


def test_ordinary_network_is_just_copied() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))
    baked = amc.bake(model, (torch.randn(1, 3, 9, 9),))
    assert baked is not model and amc.graph.capture.bake.baked_layers(model, baked) == []
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), baked.parameters(), strict=True)
    )
