"""What layers read, counted by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.calibration.activations import activations_of
from amc.runtime.errors import AmcError


class Net(nn.Module):
    """Readers: grouped, transposed, functional, linear after a flatten, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.grouped = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 1, groups=3)
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.kernel = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.hidden, self.twice = nn.Linear(4 * 36, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.grouped(self.a(x).relu()).relu()).relu()
        x = F.conv2d(input=x, weight=self.kernel).relu()
        return self.twice(self.twice(self.hidden(x.flatten(1)).relu()).relu())


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


def test_magnitudes_and_zeros_are_those_counted(model: Net) -> None:
    batches = [(torch.randn(n, 1, 7, 7), torch.zeros(n)) for n in (3, 4)]
    graph = amc.trace(model, (batches[0][0],))
    found = activations_of(model, graph.layers, batches)
    with torch.no_grad():
        x = torch.cat([images for images, _ in batches])
        a = model.a(x).relu()
        b = model.grouped(a).relu()
        c = model.up(b).relu()
        d = F.conv2d(c, model.kernel).relu().flatten(1)
        e = model.hidden(d).relu()
        seen = torch.cat([e, model.twice(e).relu()])
    expected = {  # channels at the same place of the three groups share an entry
        "grouped.weight": a.unflatten(1, (3, 2)).movedim(2, 0).flatten(1),
        "up.weight": b.movedim(1, 0).flatten(1),
        "kernel": c.movedim(1, 0).flatten(1),
        "hidden.weight": d.T,
        "twice.weight": seen.T,
    }
    for name, rows in expected.items():
        magnitude = rows.double().abs().mean(1)
        torch.testing.assert_close(found[name].magnitude, magnitude, rtol=1e-5, atol=1e-8)
        assert torch.equal(found[name].zeros, (rows == 0).double().mean(1))


def test_what_cannot_be_counted_is_told(model: Net) -> None:
    graph = amc.trace(model, (torch.zeros(2, 1, 7, 7),))
    with pytest.raises(AmcError, match="the data yields no images"):
        activations_of(model, graph.layers, [])
    bad = [(torch.full((2, 1, 7, 7), torch.inf), torch.zeros(2))]
    with pytest.raises(AmcError, match="what the layer reads is not finite"):
        activations_of(model, graph.layers, bad)
