"""Layers whose output is added to a shortcut: they can correct the shortcut's error too.

He et al. 2017 ("Pruning Multi-Branch Networks"; PocketFlow does the same): where a layer's output
Y is scaled and added to S, and the pruned network adds S' instead, the target of the layer is
``Y + (S - S') / scale``, so that the sum comes out right. The scale is that of a batch norm in
between, 1 without.

Additions are recognised while the network runs. Anything but a plain addition of the whole output
that is used nowhere else is left alone: no correction rather than a wrong one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amc.calibration.rows import Call, call_of
from amc.graph.attention.watching import Watching
from amc.graph.groups import Layer
from amc.graph.shrink import tensors
from amc.runtime import feed
from amc.runtime.feed import Feed
from amc.tasks.evaluate import evaluating

FAINT = 0.1
"""Channels that a batch norm scales by less than this, relative to its largest scale, correct
nothing: their weights would have to grow by the inverse, and a batch norm that is adapted
afterwards would take it back."""

_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
_NORM_ARGUMENTS = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"
)  # fmt: skip


def norm_call(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Arguments by name, if this operator is a batch norm that uses its running statistics."""
    if func is not F.batch_norm:
        return None
    given = {**dict(zip(_NORM_ARGUMENTS, args, strict=False)), **kwargs}
    return None if given.get("training") or given.get("running_mean") is None else given


@dataclass(frozen=True, eq=False)
class Trail:
    """A live tensor that is a layer's output up to an affine map of each channel.

    Attributes:
        layer: its name.
        call: the execution of the layer.
        tensor: held, so that nothing else gets its id.
        version: of the tensor; operators in place move it on.
        scale: [channels], of the map; None stands for 1.
    """

    layer: str
    call: Call
    tensor: Tensor
    version: int
    scale: Tensor | None = None

    @property
    def gain(self) -> Tensor:
        """[channels] by how much the output must change for the tensor to change by one."""
        if self.scale is None:
            return self.tensor.new_ones(self.tensor.shape[self.call.channel_dim])
        size = self.scale.abs()
        return torch.where(size > FAINT * size.max(), 1 / self.scale, 0)


class Trails:
    """Follows outputs of layers, at most through batch norms, to the additions they end in."""

    def __init__(self) -> None:
        self._live: dict[int, Trail] = {}

    def start(self, layer: str, call: Call) -> None:
        """Follows the output of a layer that has just run."""
        if not call.out.is_inference():  # those do not count their versions
            self._live[id(call.out)] = Trail(layer, call, call.out, call.out._version)

    def of(self, value: Any) -> Trail | None:
        """The trail that the value is on, if nothing was written to it since."""
        trail = self._live.get(id(value))
        return trail if trail is not None and trail.tensor._version == trail.version else None

    def carry(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> bool:
        """Goes on from the input of a batch norm in eval mode to its output; whether it did."""
        given = norm_call(func, args, kwargs)
        trail = self.of(given["input"]) if given else None
        if given is None or trail is None or trail.call.channel_dim != 1:
            return False
        scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
        for factor in (given.get("weight"), trail.scale):
            scale = scale if factor is None else scale * factor
        self._live[id(out)] = replace(trail, tensor=out, version=out._version, scale=scale)
        return True

    def ends(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> list[tuple[Trail, Tensor]]:
        """The trails that end in this operator, each with the other operand of the addition.

        To be asked before the operator runs: it may write to its operands.
        """
        if func not in _ADDITIONS or kwargs.get("alpha", 1) != 1 or kwargs.get("out") is not None:
            return []
        operands = [*args, *(kwargs[key] for key in ("input", "other") if key in kwargs)]
        if len(operands) != 2 or not all(isinstance(x, Tensor) for x in operands):
            return []
        a, b = operands
        if a is b or a.shape != b.shape:
            return []
        both = ((self.of(a), b), (self.of(b), a))
        return [(trail, other) for trail, other in both if trail is not None]


def additions(
    model: nn.Module, layers: Iterable[Layer], images: Feed
) -> dict[str, frozenset[str]]:
    """Which layers' outputs end in an addition, and nowhere else.

    Args:
        model: runs once, in eval mode.
        layers: what to look at; those that are executed more than once are left out.
        images: [B, ...], on the model's device.

    Returns:
        Layer name -> those of the layers that run between it and the addition. As long as one of
        them is still to be solved, the shortcut is not yet what it is going to be.
    """
    with torch.no_grad(), evaluating(model):
        return _Finder(model, layers).run(images)


class _Finder(Watching):
    """While active, watches every use of the layers' outputs."""

    def __init__(self, model: nn.Module, layers: Iterable[Layer]) -> None:
        super().__init__()
        state = tensors(model)
        self._model = model
        self._names = {id(state[layer.weight]): layer.name for layer in layers}
        self._trails, self._ran = Trails(), list[str]()
        self._used = set[int]()  # ids of tensors that are held by their trails
        self._found, self._spoilt = dict[str, frozenset[str]](), set[str]()

    def ran(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs the operator and keeps account of what it uses."""
        ends = self._trails.ends(func, args, kwargs)
        touched = self._touched((args, kwargs))
        out = func(*args, **kwargs)
        if not _is_fact(out) and self._trails.of(out) not in touched:  # not passed on as it is
            self._use(touched, self._trails.carry(func, args, kwargs, out) or bool(ends))
        for trail, _ in ends:
            self._found[trail.layer] = frozenset(self._ran[self._ran.index(trail.layer) + 1 :])
        call = call_of(func, args, kwargs, out)
        name = self._names.get(id(call.weight)) if call else None
        if call is not None and name is not None:
            if name in self._ran:
                self._spoilt.add(name)
            self._ran.append(name)
            self._trails.start(name, call)
        return out

    def run(self, images: Feed) -> dict[str, frozenset[str]]:
        """Layer -> layers between it and its addition, for those with nothing but an addition."""
        with self:
            result = feed.call(self._model, images)
        self._use(self._touched(result), proper=False)
        return {name: later for name, later in self._found.items() if name not in self._spoilt}

    def _touched(self, values: Any) -> list[Trail]:
        return [trail for x in tree_leaves(values) if (trail := self._trails.of(x)) is not None]

    def _use(self, touched: Sequence[Trail], proper: bool) -> None:
        for trail in touched:
            if not proper or id(trail.tensor) in self._used:
                self._spoilt.add(trail.layer)
            self._used.add(id(trail.tensor))


def _is_fact(result: Any) -> bool:
    """Whether an operator only told something, like a shape: neither tensors nor nothing."""
    return not any(x is None or isinstance(x, Tensor) for x in tree_leaves(result))
