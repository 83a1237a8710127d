"""Gradients of the loss against autograd by hand, one image after the other."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.calibration.gradients import mean_gradients, squared_changes
from amc.metrics.members import read
from amc.runtime.errors import AmcError
from amc.tasks.task import CLASSIFICATION, Task

SQUARES = Task("x", loss=lambda y, t: (y - t[:, None]).square().mean(), score=lambda results: 0.0)


class Net(nn.Module):
    """Batch norm, dropout, a weight that nothing trains, one that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.b, self.fc, self.aside = nn.Conv2d(6, 4, 3), nn.Linear(4, 3), nn.Linear(4, 2)
        self.norm.running_var.fill_(0.3)
        self.a.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        x = self.b(self.drop(self.norm(self.a(x)).relu())).relu().mean((2, 3))
        return self.fc(x), self.aside(x)


def images(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(n, 1, 7, 7, generator=generator), torch.arange(n) % 3) for n in sizes]


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


def of_one_image(model: nn.Module, name: str, x: Tensor, label: Tensor) -> Tensor:
    other = Net()
    other.load_state_dict(model.state_dict())
    other.eval().requires_grad_(True)
    F.cross_entropy(other(x[None])[0], label[None]).backward()
    found = other.get_parameter(name).grad
    return torch.zeros_like(other.get_parameter(name)) if found is None else found.double()


def test_the_mean_over_images_of_their_gradients(model: Net) -> None:
    names, batches = ["a.weight", "b.weight", "norm.weight", "aside.weight"], images(5, 4, 1)
    found = mean_gradients(model, names, batches, CLASSIFICATION)
    every = [(x, y) for xs, ys in batches for x, y in zip(xs, ys, strict=True)]
    for name in names:
        expected = torch.stack([of_one_image(model, name, x, y) for x, y in every]).mean(0)
        torch.testing.assert_close(found[name], expected.double(), rtol=1e-4, atol=1e-8)
    assert not found["aside.weight"].any()


def test_the_network_stays_as_it_was(model: Net) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mean_gradients(model, ["a.weight", "b.weight"], images(3), CLASSIFICATION)
    graph = amc.trace(model, (images(2)[0][0],))
    members = {g.name: read(graph, g) for g in graph.decisions}
    squared_changes(model, members, images(3), CLASSIFICATION)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and not model.a.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_squared_changes_are_those_of_single_images(model: Net) -> None:
    graph = amc.trace(model, (images(2)[0][0],))
    members = {g.name: read(graph, g) for g in graph.decisions}
    batches = images(4, 3)
    found = squared_changes(model, members, batches, CLASSIFICATION)
    every = [(x, y) for xs, ys in batches for x, y in zip(xs, ys, strict=True)]
    products = [model.b.weight * of_one_image(model, "b.weight", x, y) for x, y in every]
    expected = torch.stack([p.sum((0, 2, 3)).square() for p in products]).mean(0)
    torch.testing.assert_close(found["a"], expected.double(), rtol=1e-4, atol=1e-12)


def test_a_network_that_takes_no_single_image_gets_two_copies_of_it() -> None:
    """``squeeze`` drops the dimension of the batch; the mean loss is the same."""

    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 7), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).relu().squeeze()
            return self.b(x)

    torch.manual_seed(0)
    model = Squeezing()
    graph = amc.trace(model, (images(2)[0][0],))
    (group,) = graph.decisions
    plain = nn.Sequential(model.a, nn.ReLU(), nn.Flatten(), model.b)
    same = amc.trace(plain, (images(2)[0][0],))
    found = squared_changes(model, {"a": read(graph, group)}, images(5), CLASSIFICATION)["a"]
    expected = squared_changes(
        plain, {"a": read(same, same.decisions[0])}, images(5), CLASSIFICATION
    )["a"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-12)


def test_another_task_and_what_has_no_gradient(model: Net) -> None:
    names = ["b.weight"]
    assert mean_gradients(model, names, images(4), SQUARES)["b.weight"].any()
    with pytest.raises(AmcError, match="calibration: the data yields no images"):
        mean_gradients(model, names, [], SQUARES)
    flat = Task("flat", loss=lambda y, t: y.detach().mean(), score=lambda results: 0.0)
    with pytest.raises(AmcError, match="the loss has no gradient: the network turns gradients"):
        mean_gradients(model, names, images(4), flat)
    endless = Task("x", loss=lambda y, t: y.sum() / 0, score=lambda results: 0.0)
    with pytest.raises(AmcError, match=r"b\.weight: the gradient of the loss is not finite"):
        mean_gradients(model, names, images(4), endless)
    with pytest.raises(AmcError, match="the network fails on inputs 2x7x7"):
        squared_changes(model, {}, [(torch.zeros(2, 2, 7, 7), torch.zeros(2))], SQUARES)
