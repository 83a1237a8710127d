"""What a network is fed with: one tensor, or several in tuples, lists and dictionaries.

A tuple or list is spread over the network's positional arguments, a dictionary over its keyword
arguments; a tensor is its only argument. Containers may hold further containers, which the
network gets as they are. All tensors have as many rows: one for every sample of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

Feed: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]

Given = TypeVar("Given", bound=Feed)


def arguments(feed: Feed) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments that a network is called with."""
    if isinstance(feed, dict):
        return (), feed
    return (tuple(feed), {}) if isinstance(feed, tuple | list) else ((feed,), {})


def call(network: nn.Module, feed: Feed) -> Any:
    """What the network puts out."""
    if isinstance(feed, Tensor):
        return network(feed)
    args, kwargs = arguments(feed)
    return network(*args, **kwargs)


def each(feed: Given, change: Callable[[Tensor], Tensor]) -> Given:
    """Inputs in the same containers, every tensor changed."""
    changed = change(feed) if isinstance(feed, Tensor) else tree_map(change, feed)
    return cast(Given, changed)


def rows(feed: Given, which: slice) -> Given:
    """Some of the samples."""
    return each(feed, lambda tensor: tensor[which])


def moved(feed: Given, device: torch.device) -> Given:
    """Inputs on a device."""
    return each(feed, lambda tensor: tensor.to(device))


def leaves(feed: Feed) -> list[Tensor]:
    """All tensors, in order."""
    return [feed] if isinstance(feed, Tensor) else tree_leaves(feed)


def samples(feed: Feed) -> int:
    """How many samples there are."""
    return len(leaves(feed)[0])


def joined(feeds: Sequence[Feed]) -> Feed:
    """One batch of several that are alike."""
    first = feeds[0]
    if isinstance(first, Tensor):
        return torch.cat([feed for feed in feeds if isinstance(feed, Tensor)])
    every: Feed = tree_map(lambda *tensors: torch.cat(tensors), *feeds)
    return every


def parted(feed: Feed, cut: Callable[[Tensor], Sequence[Tensor]]) -> list[Feed]:
    """Several batches of one: what ``cut`` makes of a tensor, it makes of all of them."""
    if isinstance(feed, Tensor):
        return list(cut(feed))
    tensors, form = tree_flatten(feed)
    parts = zip(*(cut(tensor) for tensor in tensors), strict=True)
    return [tree_unflatten(list(part), form) for part in parts]


def forms(feed: Feed) -> Any:
    """Shape of one sample: ``(3, 32, 32)``; of several tensors one each, in their containers."""
    if isinstance(feed, Tensor):
        return tuple(feed.shape[1:])
    return tree_map(lambda tensor: tuple(tensor.shape[1:]), feed)


def in_words(shape: Any) -> str:
    """What `forms` gives as text: ``3x32x32``, or ``image 3x32x32, tokens 12``."""
    if isinstance(shape, dict):
        return ", ".join(f"{key} {_inner(part)}" for key, part in shape.items())
    if isinstance(shape, list | tuple) and not all(isinstance(n, int) for n in shape):
        return ", ".join(_inner(part) for part in shape)
    return "x".join(map(str, shape)) or "one number"


def _inner(shape: Any) -> str:
    text = in_words(shape)
    return f"({text})" if ", " in text else text


def form(value: object) -> str:
    """What a value is, in a few words, for an error line."""
    if not isinstance(value, Tensor):
        inside = [x for x in tree_leaves(value) if isinstance(x, Tensor)]
        kinds = f" of {', '.join(form(x) for x in inside[:4])}" if inside else ""
        return f"{type(value).__name__}{kinds}"
    least = f" from {value.min().item():g}" if value.ndim == 1 and _orderly(value) else ""
    return f"{list(value.shape)} {dtype_name(value.dtype)}{least}"


def holds_numbers(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor with ordinary values, one beside the other."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and not value.is_quantized
    )


def _orderly(value: Tensor) -> bool:
    return value.numel() > 0 and not value.is_complex()


def dtype_name(dtype: torch.dtype) -> str:
    """A type of numbers, as torch calls it."""
    return str(dtype).removeprefix("torch.")
