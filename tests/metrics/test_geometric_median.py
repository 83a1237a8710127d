"""Sums of distances between filters, and other metrics that look at weights alone, by hand."""

import numpy as np
import torch
from torch import nn

import amc
from amc.metrics import METRICS, Evidence, scores_of, selection_of


def test_distances_are_those_of_all_pairs() -> None:
    """Two layers write the channels, one of them 2 rows a channel, and a depthwise one follows."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(1, 5, 1)
            self.depth, self.fc = nn.Conv2d(5, 10, 3, groups=5), nn.Conv2d(10, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.depth((self.a(x) + self.b(x)).relu()))

    model = Net()
    graph = amc.trace(model, (torch.zeros(2, 1, 6, 6),))
    (group,) = graph.decisions
    expected = np.zeros(5)
    for layer in (model.a, model.b, model.depth):
        filters = layer.weight.detach().double().reshape(5, -1).numpy()
        sums = [sum(np.sqrt(((f - g) ** 2).sum()) for g in filters) for f in filters]
        expected += np.array(sums) / np.mean(sums)
    found = scores_of(METRICS["geometric_median"], Evidence(graph, model, {}), group)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_of_two_filters_alike_the_first_goes_before_one_apart() -> None:
    """Filters 1, 1.1 and 5: sums of distances 4.1, 4.0, 7.9; norms would keep 1.1 and 5 too."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, 1.1, 5.0]).reshape(3, 1, 1, 1)
    graph = amc.trace(model, (torch.zeros(2, 1, 4, 4),))
    select = selection_of(
        METRICS["geometric_median"], Evidence(graph, model, {}), graph.decisions[0]
    )
    assert select(2).tolist() == [0, 2] and select(1).tolist() == [2]


def test_distances_of_nearly_equal_filters_are_exact() -> None:
    """A product of matrices would lose them: 300 filters of norm 1000, 1e-4 apart."""
    model = nn.Sequential(nn.Conv2d(1, 300, 1), nn.Conv2d(300, 2, 1))
    with torch.no_grad():
        model[0].weight[:, 0, 0, 0] = 1000 + 2**-12 * torch.arange(300)
    graph = amc.trace(model, (torch.zeros(2, 1, 4, 4),))
    found = scores_of(METRICS["geometric_median"], Evidence(graph, model, {}), graph.decisions[0])
    assert found is not None
    places = np.arange(300.0)
    sums = abs(places[:, None] - places).sum(1)
    np.testing.assert_allclose(found, sums / sums.mean(), rtol=1e-9)


def test_scales_of_batch_norm() -> None:
    """Two norms, each divided by its mean; without any it is l2."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -4.0, 1.0]))
        model[4].weight.copy_(torch.tensor([0.0, 1.0, 2.0]))
    graph = amc.trace(model, (torch.zeros(2, 1, 4, 4),))
    evidence = Evidence(graph, model, {})
    first, second = graph.decisions
    found = scores_of(METRICS["bn_scale"], evidence, first)
    np.testing.assert_allclose(found, [0.5 + 0, 2 + 1, 0.5 + 2])
    assert np.array_equal(
        scores_of(METRICS["bn_scale"], evidence, second),
        scores_of(METRICS["l2"], evidence, second),
    )
