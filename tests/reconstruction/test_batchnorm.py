"""Batch-norm statistics anew against averages over all images."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.reconstruction.batchnorm import adapt_batchnorm
from small_trainings import Batch, random, state


class Normed(nn.Module):
    """Two norms behind each other: the second sees what the first makes of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3)
        self.drop, self.second = nn.Dropout(0.5), nn.BatchNorm1d(3, affine=False)
        self.frozen = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.conv(x))).mean((2, 3))
        return self.second(self.drop(x))


def test_batchnorm_statistics_are_the_average_over_the_images() -> None:
    """Batches of different sizes: each counts by its images."""
    torch.manual_seed(0)
    model = Normed()
    nn.init.normal_(model.first.weight)
    batches = [(random(n, 2, 6, 6, seed=n) * n, torch.zeros(n)) for n in (8, 9, 5)]
    expected: dict[str, list[np.ndarray]] = {"m1": [], "v1": [], "m2": [], "v2": []}
    for images, _ in batches:
        x = model.conv(images).detach().double().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
        expected["m1"].append(x.mean(axis=1))
        expected["v1"].append(x.var(axis=1, ddof=1))
        y = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        weight = model.first.weight.detach().double().numpy()[:, None]
        y = np.maximum(y * weight, 0).reshape(3, len(images), -1).mean(axis=2)
        expected["m2"].append(y.mean(axis=1))
        expected["v2"].append(y.var(axis=1, ddof=1))
    model.first.running_mean.fill_(7)  # what was there before has no part in it
    assert adapt_batchnorm(model, batches) is model
    for norm, number in ((model.first, "1"), (model.second, "2")):
        for found, name in ((norm.running_mean, "m"), (norm.running_var, "v")):
            wanted = np.average(expected[name + number], axis=0, weights=[8, 9, 5])
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_batchnorm_adaptation_leaves_everything_else_as_it_was(training: bool) -> None:
    torch.manual_seed(0)
    model = Normed().train(training)
    model.second.momentum = None
    before = state(model)
    adapt_batchnorm(model, [(random(8, 2, 6, 6, seed=0), torch.zeros(8))])
    assert [model.first.momentum, model.second.momentum] == [0.3, None]
    assert all(m.training == training for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == ("running" not in name and "num_" not in name)
    assert all(p.grad is None for p in model.parameters())


def test_momentum_comes_back_when_the_network_fails() -> None:
    model = Normed().eval()
    with pytest.raises(RuntimeError):
        adapt_batchnorm(model, [(torch.zeros(4, 5, 6, 6), torch.zeros(4))])
    assert model.first.momentum == 0.3
    assert not any(m.training for m in model.modules())


def test_networks_without_batchnorm_are_not_even_run() -> None:
    def fail() -> Iterator[Batch]:
        raise AssertionError("the images were asked for")
        yield

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert adapt_batchnorm(model, fail()) is model


def test_adapted_batchnorm_repairs_a_network_whose_inputs_moved() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    x = random(500, 4, seed=0)
    adapt_batchnorm(model, [(x, x)])
    model.eval()
    expected = model(x).detach()
    moved = 5 * x + 3
    assert (model(moved) - expected).abs().max() > 1
    adapt_batchnorm(model, [(moved, moved)])
    torch.testing.assert_close(model(moved).detach(), expected, rtol=1e-3, atol=1e-3)
