"""Heads of `nn.MultiheadAttention` removed, against the module with zeros in their place."""

import copy
from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import amc
from amc.graph.attention.multihead import CutAttention
from amc.graph.plan import Cut, Plan
from amc.graph.scratch_network import ScratchNetwork
from amc.graph.shrink import load_tensors, tensors

KEPT = (0, 2, 3, 5)
"""An even number of six heads: PyTorch's fast kernels are for such."""


def plan_of(model: nn.Module, kept: tuple[int, ...] = KEPT) -> Plan:
    """Keeps these heads in all attention of a network; the tensors are listed by hand."""
    cuts = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        prefix = f"{path}." if path else ""
        size, width = module.num_heads, module.num_heads * module.head_dim
        rows = torch.arange(width).view(size, -1)[list(kept)].flatten()
        thrice = torch.cat([rows + part * width for part in range(3)])
        places = {"out_proj.weight": (1, rows), "in_proj_bias": (0, thrice)}
        places |= {"in_proj_weight": (0, thrice), "bias_k": (2, rows), "bias_v": (2, rows)}
        places |= {f"{name}_proj_weight": (0, rows) for name in "qkv"}
        for name, held in module.named_parameters():
            if name in places:
                dim, keep = places[name]
                cuts.append(Cut(prefix + name, dim, held.shape[dim], tuple(keep.tolist())))
    return Plan({}, tuple(cuts))


def shaken(model: nn.Module) -> nn.Module:
    """Biases are no longer zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(-0.4, 0.4)
    return model


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


MODULES: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "without bias": {"bias": False},
    "own widths": {"kdim": 12, "vdim": 20},
    "own width, without bias": {"kdim": 12, "bias": False},
    "bias of keys, zero key": {"add_bias_kv": True, "add_zero_attn": True},
    "own widths, bias of keys": {"kdim": 12, "vdim": 20, "add_bias_kv": True},
}

MASKS: Mapping[str, dict[str, Any]] = {
    "none": {},
    "padding": {"key_padding_mask": torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1.0]]) > 0},
    "added padding": {"key_padding_mask": torch.randn(2, 5)},
    "hidden": {"attn_mask": causal(5)},
    "added": {"attn_mask": torch.randn(5, 5)},
    "causal": {"attn_mask": causal(5), "is_causal": True},
    "both": {
        "attn_mask": causal(5),
        "key_padding_mask": torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1.0]]) > 0,
    },
}


@pytest.mark.parametrize("options", MODULES.values(), ids=MODULES)
def test_cut_equals_masked(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    for first, weights, shared in product((True, False), (True, False), (True, False)):
        if shared and "kdim" in options:
            continue
        module = shaken(nn.MultiheadAttention(24, 6, batch_first=first, **options)).eval()
        plan = plan_of(module)
        small, masked = amc.shrink(module, plan), amc.mask(module, plan)
        assert (type(small), small.num_heads, small.head_dim) == (CutAttention, 4, 4)
        assert small.state_dict().keys() == module.state_dict().keys()
        query = torch.randn(2, 5, 24)
        key = query if shared else torch.randn(2, 5, options.get("kdim", 24))
        value = query if shared else torch.randn(2, 5, options.get("vdim", 24))
        given = [x if first else x.transpose(0, 1) for x in (query, key, value)]
        if shared:
            given = [given[0]] * 3
        for masks in MASKS.values():
            found, seen = small(*given, need_weights=weights, **masks)
            wanted, expected = masked(*given, need_weights=weights, **masks)
            assert found.shape == wanted.shape
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            assert (seen is None) == (expected is None)


def test_weights_are_those_of_the_heads_left() -> None:
    torch.manual_seed(0)
    module = shaken(nn.MultiheadAttention(24, 6, batch_first=True)).eval()
    plan, x = plan_of(module), torch.randn(2, 5, 24)
    small = amc.shrink(module, plan)
    _, every = module(x, x, x, average_attn_weights=False)
    _, each = small(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(each, every[:, list(KEPT)])
    torch.testing.assert_close(small(x, x, x)[1], each.mean(1))


def test_masks_of_every_head() -> None:
    torch.manual_seed(0)
    module = shaken(nn.MultiheadAttention(24, 6, batch_first=True)).eval()
    plan, x, mask = plan_of(module), torch.randn(2, 5, 24), torch.randn(2, 6, 5, 5)
    small, masked = amc.shrink(module, plan), amc.mask(module, plan)
    for weights in (True, False):
        kept = mask[:, list(KEPT)].flatten(0, 1)
        found, _ = small(x, x, x, attn_mask=kept, need_weights=weights)
        wanted, _ = masked(x, x, x, attn_mask=mask.flatten(0, 1), need_weights=weights)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"\(12, 5, 5\), \(8, 5, 5\) was expected"):
        small(x, x, x, attn_mask=mask.flatten(0, 1))


def test_one_sample_without_a_batch() -> None:
    torch.manual_seed(0)
    module = shaken(nn.MultiheadAttention(24, 6, batch_first=True)).eval()
    plan, x = plan_of(module), torch.randn(5, 24)
    hidden = torch.tensor([0, 0, 0, 0, 1.0]) > 0
    found, weights = amc.shrink(module, plan)(x, x, x, key_padding_mask=hidden)
    wanted, like = amc.mask(module, plan)(x, x, x, key_padding_mask=hidden)
    assert weights.shape == like.shape == (5, 5)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weights", [True, False])
def test_training_is_that_of_the_masked_module(weights: bool) -> None:
    """Gradients, in training mode; and dropout drops what the original drops on average."""
    torch.manual_seed(0)
    module = shaken(nn.MultiheadAttention(24, 6, batch_first=True)).train()
    plan, x = plan_of(module), torch.randn(2, 5, 24)
    small, masked = amc.shrink(module, plan), amc.mask(module, plan)
    assert small.training
    for one in (small, masked):
        one(x, x, x, need_weights=weights)[0].square().sum().backward()
    for one in plan.cuts:
        wanted = tensors(masked)[one.tensor].grad.index_select(one.dim, torch.tensor(one.keep))
        torch.testing.assert_close(tensors(small)[one.tensor].grad, wanted, atol=1e-3, rtol=1e-3)
    small.dropout = 0.5
    with torch.no_grad():
        dropped = [small(x, x, x, need_weights=weights)[0] for _ in range(4000)]
        mean = torch.stack(dropped).mean(0)
        assert not dropped[0].equal(dropped[1])
        torch.testing.assert_close(mean, masked(x, x, x)[0], atol=0.08, rtol=0.0)
        assert small.eval()(x, x, x)[0].equal(small(x, x, x)[0])


class Layer(nn.TransformerEncoderLayer):
    """Six heads, the fast kernels' order of dimensions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(24, 6, 16, **{"batch_first": True, "dropout": 0.0, **options})


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_encoders_and_their_fast_paths(options: dict[str, Any], grad: bool) -> None:
    """In eval mode, without gradients, PyTorch calls kernels that know whole modules only."""
    torch.manual_seed(0)
    nested = not options.get("norm_first")
    model = shaken(nn.TransformerEncoder(Layer(**options), 2, enable_nested_tensor=nested)).eval()
    plan, x = plan_of(model), torch.randn(2, 5, 24)
    small, masked = amc.shrink(model, plan), amc.mask(model, plan)
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1.0]]) > 0
    with torch.set_grad_enabled(grad):
        for given in ({}, {"src_key_padding_mask": padding}, {"mask": causal(5)}):
            torch.testing.assert_close(small(x, **given), masked(x, **given), atol=1e-4, rtol=1e-4)


def test_one_layer_cut_and_one_whole() -> None:
    torch.manual_seed(0)
    model = shaken(nn.TransformerEncoder(Layer(), 2)).eval()
    plan = Plan({}, tuple(c for c in plan_of(model).cuts if c.tensor.startswith("layers.1")))
    small, x = amc.shrink(model, plan), torch.randn(2, 5, 24)
    assert type(small.layers[0].self_attn) is nn.MultiheadAttention
    with torch.no_grad():
        torch.testing.assert_close(small(x), amc.mask(model, plan)(x), atol=1e-4, rtol=1e-4)


def test_transformer() -> None:
    torch.manual_seed(0)
    model = shaken(nn.Transformer(24, 6, 1, 2, 16, dropout=0.0, batch_first=True)).eval()
    plan, source, target = plan_of(model), torch.randn(2, 7, 24), torch.randn(2, 5, 24)
    small, masked = amc.shrink(model, plan), amc.mask(model, plan)
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            found = small.train(mode)(source, target, tgt_mask=causal(5), tgt_is_causal=True)
            wanted = masked.train(mode)(source, target, tgt_mask=causal(5), tgt_is_causal=True)
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_copies_files_and_shapes_follow() -> None:
    torch.manual_seed(0)
    model = shaken(nn.MultiheadAttention(24, 6, batch_first=True)).eval()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    plan, x = plan_of(model), torch.randn(2, 5, 24)
    small = amc.shrink(model, plan)
    wanted = small(x, x, x)[0]
    assert copy.deepcopy(small)(x, x, x)[0].equal(wanted) and len(calls) == 2
    assert load_tensors(small, small.state_dict())(x, x, x)[0].equal(wanted)
    assert load_tensors(model, small.state_dict())(x, x, x)[0].equal(wanted)
    assert type(model) is nn.MultiheadAttention and model.num_heads == 6
    scratch = ScratchNetwork(model)
    parts = {c.tensor: scratch.part(c.tensor, tensors(small)[c.tensor]) for c in plan.cuts}
    assert scratch.wear(parts, {})(x, x, x)[0].equal(wanted)
    whole = scratch.wear({}, {})
    assert (type(whole), whole.num_heads) == (nn.MultiheadAttention, 6)
    assert whole(x, x, x)[0].equal(model(x, x, x)[0])


def test_twice_cut() -> None:
    torch.manual_seed(0)
    module, x = (
        shaken(nn.MultiheadAttention(24, 6, batch_first=True)).eval(),
        torch.randn(2, 5, 24),
    )
    small = amc.shrink(module, plan_of(module))
    again = plan_of(small, (1, 3))
    smaller = amc.shrink(small, again)
    assert (smaller.num_heads, smaller.head_dim) == (2, 4)
    torch.testing.assert_close(smaller(x, x, x)[0], amc.mask(small, again)(x, x, x)[0])
    both = plan_of(module, (KEPT[1], KEPT[3]))
    torch.testing.assert_close(smaller(x, x, x)[0], amc.mask(module, both)(x, x, x)[0])


class Reversed(nn.MultiheadAttention):
    """Somebody's own."""

    def forward(self, *given: Any, **named: Any) -> Any:
        return super().forward(*given, **named)[::-1]


def test_a_forward_of_its_own_is_left_alone() -> None:
    model = Reversed(24, 6)
    assert type(amc.shrink(model, plan_of(model))) is Reversed
