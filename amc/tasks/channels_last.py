"""How a CPU computes: images with the channels of a pixel side by side.

Convolutions are then up to twice as fast in training, since nothing has to be rearranged before
each of them. What is computed is the same up to rounding.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from amc.runtime import feed
from amc.runtime.feed import Feed
from amc.tasks.evaluate import in_eval_mode, predictions
from amc.tasks.few_channels import FEW, FewChannels

LAST = torch.channels_last

TOLERANCE = 1e-3
"""Of the largest output: further apart than rounding brings them, outputs are others."""


class ChannelsLast:
    """A network that computes with channels last until it is put back.

    Its parameters stay the same objects, with the same values; only where these lie changes, and
    what a network is fed with is rearranged first.

    Args:
        network: on a CPU, one that `suits`; changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._strides: list[tuple[Tensor, tuple[int, ...]]] = []
        for weight in _own_kernels(network):
            self._strides.append((weight, weight.stride()))
            _lie(weight, torch.empty_like(weight, memory_format=LAST))
        for module in network.modules():
            if type(module) is nn.BatchNorm2d and module.num_features < FEW:
                module.__class__ = FewChannels
        hook: Any = network.register_forward_pre_hook(_rearranged, prepend=True, with_kwargs=True)
        self._handle: RemovableHandle = hook

    def put_back(self) -> None:
        """Everything lies as it did; the values are those of now."""
        self._handle.remove()
        for weight, strides in self._strides:
            _lie(weight, torch.empty_strided(weight.shape, strides, dtype=weight.dtype))
        for module in self._network.modules():
            if type(module) is FewChannels:
                module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]


def laid_out(networks: Sequence[nn.Module], images: Feed) -> list[ChannelsLast]:
    """The networks with channels last if the first one `suits`; the others are copies of it."""
    return [ChannelsLast(one) for one in networks] if suits(networks[0], images) else []


def suits(network: nn.Module, images: Feed) -> bool:
    """Whether a network has convolutions of images, and does the same with channels last.

    Forward methods may count on how numbers lie (``x.view(len(x), -1)``): two images go through a
    copy and back both ways.

    Args:
        network: not changed.
        images: some that it is made for.
    """
    some, few = next(network.parameters(), None), feed.rows(images, slice(2))
    if some is None or some.device.type != "cpu" or not _own_kernels(network):
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            first, other = copy.deepcopy(network), copy.deepcopy(network)
            ChannelsLast(other)
            with in_eval_mode(first), in_eval_mode(other):
                expected, found = predictions(first, few).detach(), predictions(other, few)
            most = TOLERANCE * float(expected.abs().max())
            if not torch.allclose(found.detach(), expected, rtol=0, atol=most, equal_nan=True):
                return False
            for parameter in other.train().parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            predictions(other, few).square().mean().backward()  # type: ignore[no-untyped-call]
    except Exception:  # whatever it is: it computes as its owner wrote it
        return False
    return True


def _own_kernels(network: nn.Module) -> list[nn.Parameter]:
    """Of convolutions of images; not those that share their memory with another tensor."""
    tensors = {id(t): t for t in (*network.parameters(), *network.buffers())}
    users = Counter(t.untyped_storage().data_ptr() for t in tensors.values())
    found: dict[int, nn.Parameter] = {}
    for module in network.modules():
        weight = module._parameters.get("weight") if isinstance(module, _ConvNd) else None
        if weight is not None and weight.ndim == 4:
            storage = weight.untyped_storage()
            if users[storage.data_ptr()] == 1 and storage.nbytes() == weight.nbytes:
                found[id(weight)] = weight
    return list(found.values())


def _lie(weight: Tensor, place: Tensor) -> None:
    with torch.no_grad():
        weight.data = place.copy_(weight)


def _rearranged(module: nn.Module, args: Any, kwargs: Any) -> Any:
    def last(x: Any) -> Any:
        images = isinstance(x, Tensor) and x.ndim == 4
        return x.contiguous(memory_format=LAST) if images else x

    return tree_map(last, (args, kwargs))
