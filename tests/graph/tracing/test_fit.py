"""What must be done before a network is pruned, or after: one line about it."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import amc


class Holds(nn.Module):
    """Two layers around a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.a, self.part, self.o = nn.Conv2d(3, 8, 3), part, nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.o(self.part(self.a(x)))
        return out


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        part: nn.Module = torch.jit.script(layers())
    return part


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        part: nn.Module = torch.jit.trace(layers(), torch.randn(1, 8, 6, 6))
    return part


def compiled(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.compile(module)
    return made


def imitating() -> nn.Module:
    from torch.ao.quantization import FakeQuantize

    return nn.Sequential(nn.Conv2d(8, 8, 3), FakeQuantize())


def watching() -> nn.Module:
    from torch.ao.quantization import MinMaxObserver

    return nn.Sequential(nn.Conv2d(8, 8, 3), MinMaxObserver())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (scripted, "part is a torch.jit.script module"),
        (traced, "part is a torch.jit.script module"),
        (lambda: compiled(layers()), "part is compiled"),
        (imitating, "part.1 is prepared for quantisation"),
        (watching, "part.1 is prepared for quantisation"),
    ],
)
def test_what_comes_after_pruning_is_said_to(make, said: str) -> None:
    with pytest.raises(amc.UnsupportedModelError) as caught:
        amc.trace(Holds(make()), (torch.randn(1, 3, 8, 8),))
    line = str(caught.value)
    assert line.startswith(said) and "\n" not in line
    assert "the pruned network" in line


def test_compiled_whole_is_said_to_be() -> None:
    with pytest.raises(
        amc.UnsupportedModelError, match=r"^OptimizedModule is compiled .*_orig_mod"
    ):
        amc.trace(compiled(Holds(layers())), (torch.randn(1, 3, 8, 8),))


def test_weights_that_are_all_nan_are_said_to_be() -> None:
    model = Holds(layers())
    for p in model.parameters():
        p.data.fill_(torch.nan)
    with pytest.raises(amc.UnsupportedModelError, match="all weights of Holds are NaN"):
        amc.trace(model, (torch.randn(1, 3, 8, 8),))


@pytest.mark.parametrize("model", [nn.Flatten(), nn.BatchNorm2d(3)])
def test_network_without_layers_says_that_there_are_none(model: nn.Module) -> None:
    graph = amc.trace(model.eval(), (torch.randn(1, 3, 8, 8),))
    said = "there is no convolution or linear layer"
    assert f"nothing can be pruned: {said}" in str(graph) or graph.groups
    with pytest.raises(
        amc.InfeasibleBudgetError, match=r"nothing in this network can be pruned: \w"
    ):
        amc.random_plan(graph, 0.5, seed=0)


def test_other_things_than_modules_are_refused() -> None:
    with pytest.raises(amc.UnsupportedModelError, match=r"expected a torch.nn.Module|must be a"):
        amc.trace(torch.relu, (torch.randn(1, 3, 8, 8),))  # type: ignore[arg-type]
