"""One copy of a network that takes the shape of one strategy after another.

`surgery.shrink` returns a new network, which costs a deep copy. A search looks at hundreds of
networks and keeps none: here tensors are exchanged in place, and what stays is not copied.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from amc.graph import attributes
from amc.graph.attention import multihead
from amc.graph.attention.following import follow_sizes
from amc.graph.shrink import as_held, duplicate, follow, owners, tensors

_SIZES = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features",
    "num_parameters", "embedding_dim", "input_size", *multihead.SIZES,
)  # fmt: skip
"""Attributes of PyTorch's layers that `surgery.follow` writes."""


class ScratchNetwork:
    """A private copy of the model, in eval mode, whose tensors are exchanged.

    Args:
        model: never changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._network = duplicate(model).eval()
        for module in self._network.modules():
            follow_sizes(module)  # which changes nothing until something is cut
        self._where = owners(self._network)
        self._whole = tensors(self._network)
        self._sizes: dict[int, dict[str, Any]] = {
            id(module): {name: vars(module)[name] for name in _SIZES if name in vars(module)}
            for module in self._network.modules()
        }
        self._in_place: set[str] = set()
        self._attributes: dict[str, Any] = {}

    def part(self, name: str, value: Tensor) -> Tensor:
        """The value as it has to be held under this name: a parameter if it was one."""
        whole = self._whole.get(name)
        return value if whole is None else as_held(whole, value)

    def wear(self, parts: Mapping[str, Tensor], sizes: Mapping[str, int]) -> nn.Module:
        """The network with these tensors, everything else as in the original.

        Args:
            parts: tensor name -> what takes its place, from `part`; any shape.
            sizes: ``@module.attribute`` -> number of channels that it holds now.

        Returns:
            The same module every time: valid until the next call.
        """
        whole = {name: self._whole[name] for name in self._in_place - parts.keys()}
        self._in_place = set(parts)
        self._fit({**whole, **parts})
        for name in self._attributes.keys() - sizes.keys():
            attributes.write(self._network, name, self._attributes.pop(name))
        for name, size in sizes.items():
            self._attributes.setdefault(name, attributes.read(self._network, name))
            attributes.write(self._network, name, size)
        return self._network

    def _fit(self, parts: Mapping[str, Tensor]) -> None:
        touched: dict[int, nn.Module] = {}
        for name, value in parts.items():
            for module, key in self._where[name]:
                held = module._parameters if key in module._parameters else module._buffers
                held[key] = value  # type: ignore[assignment]  # Module's own setter is slow
                touched[id(module)] = module
        _restore(touched.values(), self._sizes)


def _restore(modules: Iterable[nn.Module], sizes: Mapping[int, Mapping[str, Any]]) -> None:
    """Attributes as in the original, and then as the tensors say.

    A depthwise layer that was cut to one channel could not be told from a dense one.
    """
    for module in modules:
        vars(module).update(sizes[id(module)])
        follow(module)
