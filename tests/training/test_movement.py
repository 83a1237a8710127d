"""Movement against steps taken by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.runtime.errors import AmcError
from amc.tasks.task import CLASSIFICATION, Task
from amc.training.movement import RECIPE, Movement, short_training
from amc.training.recipe import clip_by_filter_norm, optimiser


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)
    )


def images(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(n, 1, 5, 5, generator=generator), torch.arange(n) % 3) for n in sizes]


def test_it_grows_with_every_step_that_makes_a_weight_longer() -> None:
    """Plain SGD on ``-w0 + w1``: the first weight grows by 0.1 a step, the second falls."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0]]))
    movement, sgd = Movement(model), torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        sgd.zero_grad()
        (model.weight[0, 1] - model.weight[0, 0]).backward()
        movement.add()
        sgd.step()
    # S = sum of -w g: 1 + 1.1 + 1.2 and -(1 + 0.9 + 0.8)
    torch.testing.assert_close(movement.sums["weight"], torch.tensor([[3.3, -2.7]]).double())


def test_a_short_training_is_the_one_by_hand() -> None:
    model, batches = net(), images(6, 5, 6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = short_training(model, ["0.weight", "4.weight"], batches, CLASSIFICATION)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    other = net().eval()
    sgd = optimiser(other, RECIPE)
    expected = {"0.weight": torch.zeros(4, 1, 3, 3), "4.weight": torch.zeros(3, 36)}
    for step, (x, y) in enumerate(batches):
        RECIPE.set_rate(sgd, step / 3)
        sgd.zero_grad()
        F.cross_entropy(other(x), y).backward()
        for name in expected:
            weight = other.get_parameter(name)
            expected[name] = expected[name] - weight.detach() * weight.grad
        clip_by_filter_norm(other.parameters(), RECIPE.clip)
        sgd.step()
    assert not torch.equal(other[0].weight, model[0].weight)
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one.double(), rtol=1e-4, atol=1e-7)


def test_what_cannot_be_trained_is_told() -> None:
    with pytest.raises(AmcError, match="the data yields no images"):
        short_training(net(), [], [], CLASSIFICATION)
    endless = Task("x", loss=lambda y, t: y.sum() / 0, score=lambda results: 0.0)
    with pytest.raises(AmcError, match=r"movement: the loss is (inf|nan|-inf) in step 1"):
        short_training(net(), [], images(4), endless)
