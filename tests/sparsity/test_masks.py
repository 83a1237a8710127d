"""Masks on weights: what they let through, and that they leave no trace once they are off."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from amc.runtime.errors import AmcError
from amc.sparsity.account import layer_levels, level_of
from amc.sparsity.constant import constant, read_masks, save_masks
from amc.sparsity.magnitude import magnitude
from amc.sparsity.masks import (
    Mask,
    attach,
    dense_weights,
    load_plain,
    maskable,
    masks_of,
    plain_state,
    put_masks,
    strip,
)
from amc.sparsity.select import chosen


class Tied(nn.Module):
    """An embedding that is its own classifier, and a layer that is there under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 10)
        self.head.weight = self.embed.weight
        self.inner = nn.Linear(8, 8)
        self.again = self.inner

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.again(self.inner(self.embed(x))))
        return scores


class Bare(nn.Module):
    """Weights that are no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ParameterList([torch.randn(4, 4), torch.randn(4, 4)])
        self.named = nn.ParameterDict({"a": torch.randn(4, 4)})
        self.bare = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.listed:
            x = F.linear(x, weight)
        return F.linear(x, self.named["a"]) @ self.bare


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 3, groups=2),
        nn.Flatten(), nn.Linear(4 * 16, 5),
    )  # fmt: skip


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def images() -> Tensor:
    return torch.randn(2, 3, 6, 6)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "convolutions": (convolutions, images),
    "channels last": (lambda: convolutions().to(memory_format=torch.channels_last), images),  # type: ignore[call-overload]
    "attention": (encoder, lambda: torch.randn(2, 5, 16)),
    "tied": (Tied, lambda: torch.randint(10, (3, 4))),
    "bare": (Bare, lambda: torch.randn(2, 4)),
    "cell": (lambda: nn.GRUCell(5, 4), lambda: torch.randn(2, 5)),
}


def wide(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.ndim > 1]


def halve(model: nn.Module, level: float = 0.5) -> dict[str, Tensor]:
    masks = chosen({n: magnitude(w) for n, w in dense_weights(model).items()}, level)
    put_masks(model, masks)
    return masks


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_masked_is_as_if_zeros_had_been_written(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    model, x = make().eval(), inputs()
    before, state, classes = model(x), model.state_dict(), list(map(type, model.modules()))
    written = copy.deepcopy(model)
    masks = attach(model, wide(model))
    assert torch.equal(model(x), before)
    kept = halve(model)
    assert masks.keys() == kept.keys() == masks_of(model).keys()
    for key, mask in kept.items():
        written.get_parameter(key).mul_(mask)
    assert torch.equal(model(x), written(x))
    assert not torch.equal(model(x), before)
    assert {k: t.tolist() for k, t in plain_state(model).items()} == {
        k: t.tolist() for k, t in written.state_dict().items()
    }
    after = model(x)
    again = copy.deepcopy(model)
    strip(model)
    assert list(model.state_dict()) == list(state)
    assert list(map(type, model.modules())) == classes
    assert torch.equal(model(x), after)
    assert torch.equal(again(x), after)  # a copy has lost nothing by that
    assert not masks_of(model)
    for key in kept:
        assert model.get_parameter(key).stride() == written.get_parameter(key).stride()


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_weights_have_no_gradient(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    model, x = make(), inputs()
    attach(model, wide(model))
    kept = halve(model)
    written = strip(copy.deepcopy(model))
    model(x).square().sum().backward()
    written(x).square().sum().backward()
    for key, weight in dense_weights(model).items():
        found, wanted = weight.grad, written.get_parameter(key).grad
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted * kept[key])


def test_the_dense_weight_comes_back() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    before = model[0].weight.detach().clone()
    masks = attach(model, ["0.weight"])
    masks["0.weight"].put(torch.zeros(3, 4, dtype=torch.bool))
    assert model[0].weight.signbit().sum() == 0  # no -0
    assert not model[0].weight.any()
    masks["0.weight"].put(torch.ones(3, 4, dtype=torch.bool))
    assert model[0].weight.equal(before)


def test_infinite_weights_that_are_masked_are_zero() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    masks = attach(model, ["0.weight"])
    with torch.no_grad():
        dense_weights(model)["0.weight"].fill_(torch.inf)
    masks["0.weight"].put(torch.zeros(3, 4, dtype=torch.bool))
    model(torch.ones(1, 4)).sum().backward()
    assert not model[0].weight.any()
    assert not dense_weights(model)["0.weight"].grad.any()  # type: ignore[union-attr]


def test_tied_weights_stay_tied() -> None:
    model = Tied()
    assert maskable(model, ["head.weight", "embed.weight", "again.weight"]) == (
        ["embed.weight", "inner.weight"],
        {},
    )
    masks = attach(model, ["head.weight", "again.weight"])
    assert list(masks) == ["embed.weight", "inner.weight"]
    halve(model)
    for other in (model, copy.deepcopy(model), copy.deepcopy(model).half()):
        assert other.head.weight.equal(other.embed.weight)  # type: ignore[operator,union-attr]
        assert strip(other).head.weight is other.embed.weight


def test_state_with_and_without_masks() -> None:
    torch.manual_seed(0)
    model, x = convolutions().eval(), images()
    attach(model, wide(model))
    halve(model)
    other = convolutions().eval()
    other.load_state_dict(plain_state(model))
    assert torch.equal(other(x), model(x))
    attach(other, wide(other))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    third = convolutions().eval()
    attach(third, wide(third))
    load_plain(third, plain_state(model))
    assert torch.equal(third(x), model(x))
    assert level_of(layer_levels(third)) == 0
    with pytest.raises(AmcError, match="is only in the network"):
        load_plain(third, {k: t for k, t in plain_state(model).items() if k != "0.weight"})
    with pytest.raises(AmcError, match=r"0.weight has shape \(1,\), here it has \(8, 3, 3, 3\)"):
        load_plain(third, plain_state(model) | {"0.weight": torch.zeros(1)})


def test_masks_in_a_file(tmp_path: Path) -> None:
    model = convolutions()
    attach(model, wide(model))
    kept = halve(model)
    save_masks(tmp_path / "masks.safetensors", masks_of(model))
    found = read_masks(tmp_path / "masks.safetensors")
    assert {n: m.tolist() for n, m in found.items()} == {n: m.tolist() for n, m in kept.items()}
    with pytest.raises(AmcError, match="masks of another network: 'x' has no mask here"):
        put_masks(model, {"x": found["0.weight"]})
    with pytest.raises(AmcError, match=r"0.weight has shape \(2,\), here it has"):
        put_masks(model, {"0.weight": torch.ones(2, dtype=torch.bool)})


def test_zeros_of_a_checkpoint_are_kept() -> None:
    weights = {"a": torch.tensor([[0.0, -0.0, 1e-30]]), "b": torch.ones(2, 2)}
    assert {n: m.tolist() for n, m in constant(weights).items()} == {
        "a": [[False, False, True]],
        "b": [[True, True], [True, True]],
    }
    with pytest.raises(AmcError, match="const: none of the 1 weights has a zero to keep"):
        constant({"b": weights["b"]})


def test_levels_by_hand() -> None:
    masks = {"a": torch.tensor([[True, False, False]]), "b": torch.ones(5, 1, dtype=torch.bool)}
    found = layer_levels(masks)
    assert [(x.name, x.shape, x.weights, x.zeros) for x in found] == [
        ("a", (1, 3), 3, 2),
        ("b", (5, 1), 5, 0),
    ]
    assert found[0].level == pytest.approx(2 / 3)
    assert level_of(found) == 2 / 8
    assert layer_levels({}) == []
    assert level_of([]) == 0


def test_weights_that_can_have_no_mask() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.lazy = nn.LSTM(3, 4), nn.LazyLinear(3)
            self.normed = parametrizations.weight_norm(nn.Linear(3, 3))
            self.old = nn.utils.weight_norm(nn.Linear(3, 3))
            self.register_buffer("fixed", torch.ones(3, 3))
            self.whole = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
            self.script = torch.jit.script(nn.Linear(3, 3))

    with pytest.warns(Warning):
        model = Odd()
    names = {
        "lstm.weight_ih_l0": "one piece of memory",
        "lazy.weight": "no shape yet",
        "normed.weight": "amc.bake makes the layer plain",
        "old.weight": "amc.bake makes the layer plain",
        "fixed": "it is a buffer",
        "whole": "torch.int8",
        "script.weight": "TorchScript",
    }
    found, refused = maskable(model, list(names))
    assert not found
    for name, reason in names.items():
        assert reason in refused[name]
        with pytest.raises(AmcError, match=f"{name}: cannot have a mask: .*{reason}"):
            attach(model, [name])
    with pytest.raises(AmcError, match="lstm: the network has no such parameter"):
        maskable(model, ["lstm"])


def test_copies_share_no_class() -> None:
    """torch gives a module with a parametrization a class of its own, and its copies the same."""
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "bias", nn.Tanh())
    other = copy.deepcopy(layer)
    attach(other, ["weight"])
    halve(other)
    assert "weight" in layer._parameters
    assert layer(torch.ones(1, 4)).shape == (1, 4)
    third = copy.deepcopy(other)
    strip(other)
    assert (other.weight == 0).sum() == (third.weight == 0).sum() == 8
    assert list(other.state_dict()) == ["weight", "parametrizations.bias.original"]


def test_all_or_none_gets_a_mask() -> None:
    class Closed(nn.Linear):
        def __init_subclass__(cls) -> None:
            raise TypeError("final")

    model = nn.Sequential(nn.Linear(3, 3), Closed(3, 3), nn.Linear(3, 3))
    attach(model, ["2.weight"])
    before = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    with pytest.raises(AmcError, match=r"1\.weight: cannot have a mask: TypeError: final"):
        attach(model, ["0.weight", "1.weight"])
    assert {name: tensor.tolist() for name, tensor in model.state_dict().items()} == before
    assert list(model.state_dict()) == list(before)
    assert type(model[0]) is nn.Linear
    assert list(masks_of(model)) == ["2.weight"]


def test_exported_with_its_masks() -> None:
    model, x = convolutions().eval(), images()
    attach(model, wide(model))
    halve(model)
    exported = torch.export.export(model, (x,)).module()
    assert torch.allclose(exported(x), model(x))


def test_masks_of_the_users_own() -> None:
    class Half(Mask):
        def current(self) -> Tensor:
            return self.mask & (torch.arange(self.mask.shape[1]) % 2 == 0)

    model = nn.Sequential(nn.Linear(4, 3))
    attach(model, ["0.weight"], lambda name, weight: Half(weight))
    assert (strip(model)[0].weight[:, 1::2] == 0).all()  # type: ignore[index]
