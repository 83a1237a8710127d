"""What one forward pass of a batch does: which layers run, and what it holds at a time."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.calibration.rows import call_of
from amc.calibration.shortcuts import Trails, norm_call
from amc.graph.attention.watching import Watching
from amc.graph.groups import Layer
from amc.graph.shrink import tensors
from amc.runtime import feed
from amc.runtime.feed import Feed
from amc.tasks.evaluate import evaluating


@dataclass(frozen=True)
class ForwardProfile:
    """What one forward pass of a batch looks like.

    Attributes:
        bytes: the most that is held at a time.
        once: whether every layer and batch norm of interest is executed exactly once.
        shortcuts: layer -> number of the operator whose result is added to its output, if that
            is there before the layer runs, and unchanged.
    """

    bytes: int
    once: bool
    shortcuts: Mapping[str, int]


def profile(model: nn.Module, layers: Sequence[Layer], images: Feed) -> ForwardProfile:
    """Watches a forward pass in eval mode, and another one: following layers holds tensors."""
    with torch.no_grad(), evaluating(model):
        followed = _Watcher(model, layers).run(images)
        return replace(followed, bytes=_Watcher(model, []).run(images).bytes)


class _Watcher(Watching):
    """While active, counts operators, bytes that are alive, and executions."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        super().__init__()
        state = tensors(model)
        self._model = model
        self._names = {id(state[layer.weight]): layer.name for layer in layers}
        self._born: dict[int, tuple[int, weakref.ref[Tensor]]] = {}  # id -> first operator
        self._began: dict[str, tuple[int, dict[int, int]]] = {}  # layer -> operator, versions
        self._executed: dict[Any, int] = {}
        self._shortcuts: dict[str, int] = {}
        self._trails, self._count, self._most = Trails(), 0, 0

    def run(self, images: Feed) -> ForwardProfile:
        """One forward pass."""
        with self:
            feed.call(self._model, images)
        once = all(count == 1 for count in self._executed.values())
        return ForwardProfile(self._most, once, self._shortcuts)

    def ran(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs the operator and takes notes."""
        number = self._count
        self._count += 1
        for trail, other in self._trails.ends(func, args, kwargs):
            self._meet(trail.layer, other)
        norm = norm_call(func, args, kwargs)
        out = func(*args, **kwargs)
        self._trails.carry(func, args, kwargs, out)
        call = call_of(func, args, kwargs, out)
        name = self._names.get(id(call.weight)) if call else None
        if call is not None and name is not None:
            self._began[name] = number, {i: t._version for i, t in self._alive().items()}
            self._trails.start(name, call)
        for key in (name, norm and id(norm.get("running_mean"))):
            if key is not None:
                self._executed[key] = self._executed.get(key, 0) + 1
        self._note(out, number)
        return out

    def _meet(self, layer: str, other: Tensor) -> None:
        began, versions = self._began[layer]
        number, _ = self._born.get(id(other), (began, None))
        if number < began and versions.get(id(other)) == other._version:
            self._shortcuts[layer] = number

    def _note(self, out: Any, number: int) -> None:
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and not tensor.is_inference():
                _, known = self._born.get(id(tensor), (0, None))
                if known is None or known() is not tensor:
                    self._born[id(tensor)] = number, weakref.ref(tensor)
        sizes = {t.untyped_storage().data_ptr(): t.nbytes for t in self._alive().values()}
        self._most = max(self._most, sum(sizes.values()))

    def _alive(self) -> dict[int, Tensor]:
        found = ((i, ref()) for i, (_, ref) in self._born.items())
        return {i: tensor for i, tensor in found if tensor is not None}
