"""The bundled vision transformer: its size, counted by hand, and heads that go."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import amc
from amc.models.catalog import build
from amc.models.pretrained import CLIPPED
from amc.models.vit import GRID, _tokens
from amc.runtime.names import MODELS


def vit(width: float = 1.0) -> nn.Module:
    """In double precision, with weights that make every block do something."""
    torch.manual_seed(0)
    model = build("vit", num_classes=10, in_channels=1, width=width).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def test_parameters_are_those_counted_by_hand() -> None:
    model = build("vit", num_classes=10, in_channels=1)
    stem = 9 * (1 * 24 + 24 * 48 + 48 * 96) + 2 * (24 + 48 + 96)
    block = 4 * (96 * 96 + 96) + (96 * 192 + 192) + (192 * 96 + 96) + 4 * 96
    parameters = stem + 16 * 96 + 4 * block + 2 * 96 + (96 * 10 + 10)
    assert sum(p.numel() for p in model.parameters()) == parameters == 354_226


@pytest.mark.parametrize(("width", "dim"), [(0.5, 48), (0.01, 16), (2, 192)])
def test_the_width_is_one_of_whole_heads(width: float, dim: int) -> None:
    assert build("vit", num_classes=2, in_channels=3, width=width).norm.weight.shape == (dim,)


@pytest.mark.parametrize("side", [5, 16, 28, 32, 50])
def test_images_of_any_size_have_sixteen_tokens(side: int) -> None:
    model = build("vit", num_classes=7, in_channels=3, width=0.2).eval()
    assert model(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_tokens_are_maxima_of_the_parts_of_an_image() -> None:
    x = torch.rand(2, 3, 8, 8)
    maxima = F.adaptive_max_pool2d(x, GRID).flatten(2).transpose(1, 2)
    assert torch.equal(_tokens(x), maxima)
    assert torch.equal(_tokens(x[..., :7])[:, 3::4, 0], x[:, 0, :, 6].reshape(2, 4, 2).amax(2))


def test_blocks_begin_as_constants() -> None:
    model = build("vit", num_classes=7, in_channels=3, width=0.2).eval()
    tokens = torch.randn(2, 16, 16)
    added = model.blocks(tokens) - tokens
    assert torch.allclose(added, added[:1, :1].expand_as(added), atol=1e-6)


def test_a_network_without_some_heads_is_the_one_in_which_they_are_silent() -> None:
    model, x = vit(0.5), torch.randn(3, 1, 16, 16, dtype=torch.float64)
    graph = amc.trace(model, (x,))
    assert [g.size for g in graph.groups if g.unit == "head"] == [3] * 4
    keep = {"blocks.0.attention.query": [1], "blocks.1.attention.query": [0, 2]}
    small = amc.shrink(model, graph.plan(keep))
    assert small.blocks[0].attention.value.out_features == 16
    with torch.no_grad():
        left = small(x)
        for name, heads in keep.items():
            out: Tensor = model.get_submodule(name).get_parameter("weight")  # for its shape
            silent = torch.ones(out.shape[0] // 16, dtype=torch.bool)
            silent[heads] = False
            layer = model.get_submodule(name.replace("query", "out"))
            layer.get_parameter("weight")[:, silent.repeat_interleave(16)] = 0
        assert torch.allclose(left, model(x), rtol=1e-9, atol=1e-12)


def test_the_networks_that_are_clipped_are_there() -> None:
    assert CLIPPED.keys() <= set(MODELS)
