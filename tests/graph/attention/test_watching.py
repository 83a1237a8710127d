"""Linear layers inside PyTorch's attention, seen by modes."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.calibration.rows import call_of
from amc.calibration.statistics import Sampling, collect
from amc.graph.attention.multihead import CutAttention
from amc.graph.attention.watching import Watching
from amc.graph.groups import Layer
from amc.graph.shrink import tensors


class Linears(Watching):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(t): name for name, t in tensors(model).items()}
        self.seen: list[tuple[str, Tensor]] = []

    def ran(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if func is F.linear:
            call = call_of(func, args, kwargs, out)
            assert call is not None
            self.seen.append((self._names[id(call.weight)], call.given["input"].clone()))
        return out


@pytest.mark.parametrize("weights", [True, False])
def test_layers_of_attention_are_seen(weights: bool) -> None:
    torch.manual_seed(0)
    module, x = nn.MultiheadAttention(24, 6, batch_first=True).eval(), torch.randn(2, 5, 24)
    wanted = module.train()(x, x, x, need_weights=weights)[0]  # the slow way, as under a mode
    other = copy.deepcopy(module).eval()
    other.__class__ = CutAttention
    rows = []
    with torch.no_grad():
        for one in (module.eval(), other):
            linears = Linears(one)
            with linears:
                out, _ = one(x, x, x, need_weights=weights)
            assert [name for name, _ in linears.seen] == ["in_proj_weight", "out_proj.weight"]
            torch.testing.assert_close(out, wanted)
            rows.append([x for _, x in linears.seen])
    for a, b in zip(*rows, strict=True):  # in the same order, so that they can be compared
        torch.testing.assert_close(a, b)


def test_statistics_of_a_projection() -> None:
    """X'X against what the module is known to read: the outputs with the projection left out."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(24, 6, 16, dropout=0.0, batch_first=True).eval()
    layer = Layer(
        "self_attn.out_proj", "self_attn.out_proj.weight", "self_attn.out_proj.bias", "linear",
        1, 0, 24, 24, macs=5 * 576, positions=10, calls=1, height=1, width=1, stride=1, kernel=1,
        groups=1, out_group="",
    )  # fmt: skip
    x = torch.randn(8, 5, 24)
    found = collect(model, [layer], [(x, torch.zeros(8))], Sampling(0))["self_attn.out_proj"]
    with torch.no_grad():
        attention = model.self_attn
        attention.out_proj.weight.copy_(torch.eye(24))
        rows = attention(x, x, x)[0].reshape(-1, 24)
    wanted = rows.double().T @ rows.double()
    torch.testing.assert_close(found.xx[0].double(), wanted, atol=1e-4, rtol=1e-4)
