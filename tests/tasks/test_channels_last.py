"""Channels last: the same numbers up to rounding, and everything is put back."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.models.catalog import build
from amc.tasks.channels_last import LAST, ChannelsLast, suits
from amc.tasks.few_channels import FewChannels
from small_trainings import random


class Flattening(nn.Module):
    """Counts on how the numbers of an image lie."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.flatten = nn.Conv2d(3, 4, 3, padding=1), flatten
        self.fc = nn.Linear(4 * 64, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(self.flatten(self.conv(x)))
        return found


def images(count: int = 4, side: int = 8) -> Tensor:
    return random(count, 3, side, side, seed=1)


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "mobilenet_v1", "mobilenet_v2"])
@pytest.mark.parametrize("training", [True, False])
def test_networks_compute_the_same_with_channels_last(name: str, training: bool) -> None:
    torch.manual_seed(0)
    plain = build(name, num_classes=5, in_channels=3, width=0.25).double().train(training)
    other = copy.deepcopy(plain)
    assert suits(other, images(side=16).double())
    ChannelsLast(other)
    found = []
    for network in (plain, other):
        out = network(images(8, 16).double())
        (gradient,) = torch.autograd.grad(out.square().mean(), [next(network.parameters())])
        found.append((out, gradient, *network.state_dict().values()))
    for one, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(one, expected)


def test_a_network_is_put_back_as_it_lay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))
    network[2].to(memory_format=LAST)
    before = {n: (t.stride(), t.clone(), id(t)) for n, t in network.named_parameters()}
    laid_out = ChannelsLast(network)
    kernel = network[0].weight
    assert kernel.is_contiguous(memory_format=LAST) and not kernel.is_contiguous()
    assert network(images()).is_contiguous(memory_format=LAST)
    assert isinstance(network[1], FewChannels)
    laid_out.put_back()
    assert type(network[1]) is nn.BatchNorm2d and not network._forward_pre_hooks
    for name, tensor in network.named_parameters():
        strides, values, identity = before[name]
        assert (tensor.stride(), id(tensor)) == (strides, identity)
        assert torch.equal(tensor, values)


@pytest.mark.parametrize(
    ("flatten", "expected"),
    [
        (lambda x: x.flatten(1), True),
        (lambda x: x.view(len(x), -1), False),  # fails with channels last
        (lambda x: x.as_strided((len(x), 256), (256, 1)), False),  # gives other numbers
    ],
)
def test_what_counts_on_its_layout_keeps_it(
    flatten: Callable[[Tensor], Tensor], expected: bool
) -> None:
    network = Flattening(flatten)
    before, state = network(images()), torch.get_rng_state()
    assert suits(network, images()) == expected
    assert torch.equal(network(images()), before) and torch.equal(torch.get_rng_state(), state)


def test_networks_without_images_are_left_alone() -> None:
    assert not suits(nn.Linear(3, 2), random(4, 3, seed=0))
    assert not suits(nn.Conv1d(3, 2, 1), random(4, 3, 8, seed=0))


def test_a_kernel_that_shares_its_memory_stays_where_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    network[1].weight.data = network[0].weight.data
    assert not suits(network, images())


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (5, 3), (6, 32), (15, 2)])
def test_batch_norm_of_few_channels_is_batch_norm(channels: int, side: int) -> None:
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(channels), FewChannels(channels)
    for norm in norms:
        nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(2))
        nn.init.uniform_(norm.bias, generator=torch.Generator().manual_seed(3))
    x = (10 + random(8, channels, side, side, seed=4)).contiguous(memory_format=LAST)
    gradient = random(8, channels, side, side, seed=5)
    found = []
    for norm in norms:
        own = x.clone().requires_grad_()
        out = F.relu(norm(own), inplace=True)
        parts = torch.autograd.grad(out, [own, norm.weight, norm.bias], gradient)
        shown = norm.eval()(x)
        state = norm.state_dict().values()
        found.append([out, *parts, shown, *state])
    for one, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=2e-5)


def test_what_it_is_not_faster_at_is_left_to_pytorch() -> None:
    x = random(4, 6, 8, 8, seed=0)
    plain, few = nn.BatchNorm2d(6), FewChannels(6)
    assert torch.equal(few(x), plain(x))  # not channels last
    last = x.contiguous(memory_format=LAST)
    plain, few = nn.BatchNorm2d(6, momentum=None), FewChannels(6, momentum=None)
    assert torch.equal(few(last), plain(last))
