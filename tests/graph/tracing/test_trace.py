"""Tracing whatever users hand in: inputs of any form, data types, odd modules; and the proof."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.graph.capture.export import Inputs
from amc.graph.tracing.cuts import uneven
from amc.graph.tracing.proof import Proof


def conv(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 8, 8)


class TwoStreams(nn.Module):
    """Reads a dictionary, a tuple and keyword arguments; returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv(3, 8), conv(1, 8)
        self.head, self.aside = conv(8, 2), conv(8, 3)

    def forward(
        self, given: dict[str, Tensor], pair: tuple[Tensor, int], *, mask: Tensor, flag: bool
    ) -> dict[str, Any]:
        x = self.left(given["left"]) * mask + self.right(pair[0]) * pair[1]
        return {"main": self.head(F.relu(x)), "more": [self.aside(x)] if flag else []}


def test_inputs_and_outputs_of_any_form() -> None:
    torch.manual_seed(0)
    model = TwoStreams()
    args = ({"left": images()}, (images(1), 2))
    kwargs = {"mask": torch.rand(2, 1, 8, 8), "flag": True}
    graph = amc.trace(model, args, kwargs)
    assert graph.batch == 2
    assert {n: g.readers for n, g in ((g.name, g) for g in graph.decisions)} == {
        "left": ("head", "aside")
    }
    plan = graph.plan({"left": [1, 5, 6]})
    found, expected = (f(model, plan)(*args, **kwargs) for f in (amc.shrink, amc.mask))
    torch.testing.assert_close(found, expected)
    assert (found["main"] - model(*args, **kwargs)["main"]).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_data_types_are_kept(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 2)).to(dtype).eval()
    graph = amc.trace(model, (images().to(dtype),))
    assert graph.sizes == {"0": 8}
    smaller = amc.shrink(model, graph.plan({"0": [0, 2, 7]}))
    assert {p.dtype for p in smaller.parameters()} == {dtype}
    assert smaller(images().to(dtype)).dtype == dtype


class HalfInside(nn.Module):
    """Cannot run in any other data type than the one it was written for."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8).bfloat16(), conv(8, 2).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x.bfloat16())))


def test_network_that_casts_by_itself_is_proven_in_its_own_type() -> None:
    torch.manual_seed(0)
    assert amc.trace(HalfInside(), (images(),)).sizes == {"a": 8}


def test_channels_last_stays_channels_last() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), conv(6, 2))
    model = model.to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    smaller = amc.shrink(model, amc.trace(model, (x,)).plan({"0": [1, 2, 5], "2": [0, 3]}))
    assert smaller[2].weight.shape == (2, 3, 3, 3)
    assert all(
        layer.weight.is_contiguous(memory_format=torch.channels_last)
        and not layer.weight.is_contiguous()
        for layer in (smaller[0], smaller[2], smaller[3])
    )


def test_hooks_of_a_container_are_part_of_the_network() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(conv(3, 8), nn.ReLU())
    inner.register_forward_hook(lambda module, args, out: out * 3)
    inner.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model = nn.Sequential(inner, conv(8, 2))
    graph = amc.trace(model, (images(),))
    plan = graph.plan({"0.0": [0, 1, 6]})
    x = images()
    torch.testing.assert_close(amc.shrink(model, plan)(x), amc.mask(model, plan)(x))
    plain = nn.Sequential(nn.Sequential(inner[0], inner[1]), model[1])
    assert (amc.shrink(plain, plan)(x) - amc.shrink(model, plan)(x)).abs().max() > 1e-3


class Remembers(nn.Module):
    """Keeps its last activation, with its history, as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.seen = conv(3, 8), conv(8, 2), {}

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.a(x)
        self.seen["last"] = [self.last]
        return self.b(self.last)


def test_network_that_keeps_activations_can_be_copied_and_cut() -> None:
    model = Remembers()
    model(images())
    assert model.last.grad_fn is not None
    graph = amc.trace(model, (images(),))
    smaller = amc.shrink(model, graph.plan({"a": [0, 1]}))
    assert smaller(images()).shape == (2, 2, 8, 8)
    assert model.last.grad_fn is not None and model.last.shape == (2, 8, 8, 8)
    assert type(model.last) is Tensor


def test_tracing_draws_no_random_numbers_and_prints_nothing() -> None:
    class Chatty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) + 0.1 * torch.rand(1))

    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        graph = amc.trace(Chatty(), (x := images(),))
        torch.manual_seed(3)
        del x
    assert graph.sizes == {"a": 8}  # noise that does not know the channels is no obstacle
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert out.getvalue() == err.getvalue() == ""


def test_network_that_writes_into_its_input_leaves_the_example_alone() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x.mul_(2).add_(1)))

    x = images()
    before = x.clone()
    graph = amc.trace(InPlace(), (x,))
    assert graph.sizes == {"a": 8}
    assert torch.equal(x, before)


# --- networks that cannot be traced


@dataclass
class Custom:
    y: Tensor


def module(forward: Callable[[Any, Tensor], Any]) -> nn.Module:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 2)

    Odd.forward = forward  # type: ignore[method-assign]
    return Odd()


def branches(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.b(x) if x.sum() > 0 else m.b(-x)


def sizes(m: Any, x: Tensor) -> Tensor:
    n = int(m.a(x).max().item())
    return m.b(m.a(x)[:, :, : n + 3])


def leaves_torch(m: Any, x: Tensor) -> Tensor:
    return m.b(torch.from_numpy(m.a(x).detach().numpy()))


def custom_output(m: Any, x: Tensor) -> Custom:
    return Custom(m.b(m.a(x)))


def wrong_shape(m: Any, x: Tensor) -> Tensor:
    return m.b(m.a(x).view(3, 3))


@pytest.mark.parametrize(
    ("forward", "line", "advice"),
    [
        (branches, 2, "use torch.where, or move that part out of forward"),
        (sizes, 1, "use torch.where, or move that part out of forward"),
        (leaves_torch, 1, "use torch operators in place of numpy"),
        (wrong_shape, 1, "does not run on the example inputs"),
    ],
)
def test_message_names_the_line_and_what_to_change(
    forward: Callable[[Any, Tensor], Any], line: int, advice: str
) -> None:
    with pytest.raises(amc.UnsupportedModelError) as caught:
        amc.trace(module(forward), (images(),))
    message = str(caught.value)
    assert "\n" not in message and advice in message
    assert f"test_trace.py:{forward.__code__.co_firstlineno + line} `" in message


def test_other_obstacles_have_their_own_advice() -> None:
    with pytest.raises(amc.UnsupportedModelError, match=r"register_dataclass"):
        amc.trace(module(custom_output), (images(),))
    with pytest.raises(amc.UnsupportedModelError, match=r"must be a tuple .* got Tensor"):
        amc.trace(nn.Conv2d(3, 2, 1), images())  # type: ignore[arg-type]
    with pytest.raises(amc.UnsupportedModelError, match=r"0\.weight has no shape yet: run"):
        amc.trace(nn.Sequential(nn.LazyConv2d(8, 3), nn.Conv2d(8, 2, 1)), (images(),))


class Picks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 6), conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(self.b(x)) + x[x > 0].sum()


def test_sizes_that_depend_on_the_data_freeze_only_what_meets_them() -> None:
    graph = amc.trace(Picks(), (images(),))
    assert graph.sizes == {"b": 6}
    (reason,) = [g.reason for g in graph.groups if g.name == "a"]
    line = Picks.forward.__code__.co_firstlineno + 2
    assert reason == f"index has a size that depends on the data (test_trace.py:{line})"


# --- the proof


class ZeroBranch(nn.Module):
    """A cut of the branch is wrong, but its scale is zero: the outputs do not show it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.stem, self.branch, self.head = conv(3, 8), conv(8, 6), conv(8, 2)
        self.scale, self.back = nn.Parameter(torch.full((8, 1, 1), scale)), conv(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.branch(x)
        y = y * y.shape[1]  # a number that follows the cut, and should not
        return self.head(x + self.scale * self.back(y))


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-9])
def test_proof_does_not_depend_on_the_weights(scale: float) -> None:
    torch.manual_seed(0)
    graph = amc.trace(ZeroBranch(scale), (images(),))
    reasons = {g.name: g.reason for g in graph.groups}
    assert "stem" in graph.sizes
    assert "differs from the masked one" in reasons["branch"]


def test_proof_does_not_depend_on_the_example() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 8, bias=False), conv(8, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x * x.shape[1])

    graph = amc.trace(Counts(), (torch.zeros(1, 3, 8, 8),))  # every output is zero
    assert graph.sizes == {}


class Auxiliary(nn.Module):
    """GoogLeNet's way: a second head that only training executes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.head = conv(3, 8), conv(8, 6), conv(6, 2)
        self.aux = conv(8, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        y = self.head(self.middle(x))
        return (y, self.aux(x)) if self.training else y


def test_what_only_training_executes_still_runs_after_the_cut() -> None:
    model = Auxiliary()
    graph = amc.trace(model, (images(),))
    assert graph.sizes == {"stem": 8, "middle": 6}
    smaller = amc.shrink(model, graph.plan({"stem": [2, 3, 7], "middle": [0, 1]}))
    assert smaller.aux.weight.shape == (2, 3, 3, 3)
    assert len(smaller.train()(images())) == 2


def test_failing_groups_are_found_among_many_and_no_others() -> None:
    """Halving must find every wrong group; also two that only fail together."""

    class Together(nn.Module):
        def __init__(self, written: tuple[int, ...]) -> None:
            super().__init__()
            self.body = nn.ModuleList([conv(3, 8), *[conv(8, 8) for _ in range(9)]])
            self.head, self.written = conv(8, 2), written

        def forward(self, x: Tensor) -> Tensor:
            widths = []
            for number, layer in enumerate(self.body):
                x = F.relu(layer(x))
                widths.append(x.shape[1])
                if number in self.written:
                    x = x.view(x.shape[0], 8, 8, 8)
            if widths[4] < 8 and widths[5] < 8:
                x = x * 2
            return self.head(x)

    torch.manual_seed(0)
    graph = amc.trace(Together(written=()), (images(),))  # nothing fails by itself
    assert len({"body.4", "body.5"} & set(graph.sizes)) == 1
    assert len(graph.sizes) == 9
    model = Together(written=(2, 7))
    graph = amc.trace(model, (images(),))
    left = set(graph.sizes)
    assert {f"body.{i}" for i in (0, 1, 3, 6, 8, 9)} <= left
    assert not {"body.2", "body.7"} & left
    assert len({"body.4", "body.5"} & left) == 1
    assert Proof(model, Inputs((images(),))).failing(graph, [uneven]) == {}
    reason = next(g.reason for g in graph.groups if g.name == "body.2")
    assert "test_trace.py" in reason and "x.view(x.shape[0], 8, 8, 8)" in reason
