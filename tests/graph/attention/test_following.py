"""Attention by hand whose sizes are read off its input, with heads removed."""

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.graph.attention.following import can_follow, follow_sizes
from amc.graph.plan import Cut, Plan
from amc.graph.scratch_network import ScratchNetwork
from amc.graph.shrink import tensors
from written_attention import ATTENTION, HEADS, WIDTH, Derived, Fused, Packed

KEPT = [0, 2, 3, 5]
ATTRIBUTES = ("num_heads", "n_head", "_Maps__heads")


def plan_of(model: nn.Module) -> Plan:
    """Keeps some heads; the tensors are listed by hand."""
    rows = torch.arange(WIDTH).view(HEADS, -1)[KEPT].flatten()
    cuts = [Cut(f"@{x}", 0, HEADS, tuple(KEPT)) for x in ATTRIBUTES if x in vars(model)]
    for name, _ in model.named_parameters():
        layer, _, kind = name.partition(".")
        parts = {"q": 1, "kv": 2, "qkv": 3, "c_attn": 3}.get(layer, 0)
        keep = torch.cat([rows + part * WIDTH for part in range(parts)]) if parts else rows
        if parts:
            cuts.append(Cut(name, 0, parts * WIDTH, tuple(keep.tolist())))
        elif layer in ("proj", "c_proj", "out") and kind == "weight":
            cuts.append(Cut(name, 1, WIDTH, tuple(keep.tolist())))
    return Plan({}, tuple(cuts))


@pytest.mark.parametrize("kind", ATTENTION.values(), ids=ATTENTION)
def test_cut_equals_masked(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(3, 4, WIDTH)
    plan = plan_of(model)
    small = amc.shrink(model, plan)
    assert type(model) is kind and isinstance(small, kind)
    assert type(small).__name__ == kind.__name__ and repr(small) != repr(model)
    torch.testing.assert_close(small(x), amc.mask(model, plan)(x), atol=1e-5, rtol=1e-5)
    assert amc.shrink(model, Plan({}, ()))(x).equal(model(x))


@pytest.mark.parametrize("kind", [*ATTENTION.values(), Derived])
def test_nothing_changes_while_nothing_is_cut(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(3, 4, WIDTH, requires_grad=True)
    other = copy.deepcopy(model)
    assert can_follow(other) and follow_sizes(other) and not can_follow(other)
    for mode in (True, False):
        for one in (model.train(mode), other.train(mode)):
            torch.manual_seed(1)
            one(x).square().sum().backward()
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad.equal(same.grad)


def test_dropout_is_that_of_the_user() -> None:
    torch.manual_seed(0)
    model, x = Fused().train(), torch.randn(3, 4, WIDTH)
    small, masked = (f(model, plan_of(model)) for f in (amc.shrink, amc.mask))
    with torch.no_grad():
        mean = torch.stack([small(x) for _ in range(3000)]).mean(0)
        assert not small(x).equal(small(x)) and small.eval()(x).equal(small(x))
        torch.testing.assert_close(mean, masked.eval()(x), atol=0.05, rtol=0.0)
        hidden = torch.ones(4, 4, dtype=torch.bool).tril()
        torch.testing.assert_close(small(x, hidden), masked(x, mask=hidden))


def test_copies_files_and_scratch_networks() -> None:
    torch.manual_seed(0)
    model, x = Packed().eval(), torch.randn(3, 4, WIDTH)
    plan = plan_of(model)
    small = amc.shrink(model, plan)
    wanted = small(x)
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert type(other) is type(small) and other(x).equal(wanted)
    assert amc.shrink(small, Plan({}, ()))(x).equal(wanted)
    scratch = ScratchNetwork(model)
    state = tensors(small)
    parts = {name: scratch.part(name, state[name]) for name in plan.by_tensor if name in state}
    assert scratch.wear(parts, {"@num_heads": len(KEPT)})(x).equal(wanted)
    assert scratch.wear({}, {})(x).equal(model(x))


def test_twice_cut() -> None:
    """What is left of the heads is cut once more."""
    torch.manual_seed(0)
    model, x = Packed().eval(), torch.randn(3, 4, WIDTH)
    small = amc.shrink(model, plan_of(model))
    rows = torch.arange(16).view(4, -1)[[1, 2]].flatten()
    thrice = tuple(torch.cat([rows + 16 * part for part in range(3)]).tolist())
    again = Plan(
        {},
        (
            Cut("@num_heads", 0, 4, (1, 2)),
            Cut("qkv.weight", 0, 48, thrice),
            Cut("qkv.bias", 0, 48, thrice),
            Cut("proj.weight", 1, 16, tuple(rows.tolist())),
        ),
    )
    smaller = amc.shrink(small, again)
    torch.testing.assert_close(smaller(x), amc.mask(small, again)(x), atol=1e-5, rtol=1e-5)


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def inner(*given: Any) -> Any:
        return function(*given)

    return inner


class Decorated(Packed):
    @decorated
    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        return self.qkv(x).softmax(-1).reshape(B, N, C, 3)[..., 0]


class NoAttention(nn.Module):
    """Views as networks without attention have them."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class Counted(Packed):
    """Somebody who counts sub-classes."""

    def __init_subclass__(cls) -> None:
        raise AssertionError("another one")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(-1).reshape(x.shape[0], x.shape[1], x.shape[2])


def test_what_is_left_alone() -> None:
    scope: dict[str, Any] = {"nn": nn, "F": F}
    text = "class NoSource(nn.Module):\n def forward(self, x):\n"
    text += "  b, n, c = x.shape\n  return F.softmax(x, -1).reshape(b, n, c)\n"
    exec(text, scope)
    own = Packed()
    own.forward = lambda x: x  # type: ignore[method-assign]
    for model in (
        Decorated(),
        NoAttention(),
        scope["NoSource"](),
        own,
        Counted(),
        nn.Linear(2, 2),
    ):
        kind = type(model)
        assert not follow_sizes(model) and type(model) is kind
