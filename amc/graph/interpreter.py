"""Running operators on labels instead of numbers: the state, and what a rule is given."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from amc.graph.attributes import holders
from amc.graph.labels import LabelSpace
from amc.graph.observe import Observed

Value: TypeAlias = Any  # a label tensor, a Source, a number, None, or a tuple / list of these


@dataclass(frozen=True)
class Source:
    """A parameter or buffer of the model that has not been used as an activation (yet)."""

    name: str
    shape: torch.Size


@dataclass(frozen=True)
class LayerCall:
    """One execution of a convolution or linear layer.

    Attributes:
        weight, bias: dotted names of its tensors.
        kind: conv2d, depthwise, linear, conv_transpose2d ...
        in_dim, out_dim: the dimensions of the weight that hold input and output channels.
        positions: how often the whole weight is applied, over the batch; MACs = positions x numel.
        groups: groups of the convolution; 1 for a linear layer.
        height, width: spatial size of the input, for the state of the environment.
        stride, kernel: along the first spatial dimension.
    """

    weight: str
    bias: str | None
    kind: str
    in_dim: int
    out_dim: int
    positions: int
    groups: int = 1
    height: int = 1
    width: int = 1
    stride: int = 1
    kernel: int = 1


@dataclass(frozen=True)
class Op:
    """One operator of the exported graph, its operands already labels.

    Attributes:
        target: the ATen operator.
        args, kwargs: operands as written.
        out: the (fake) value of its result, for shapes.
    """

    target: Any
    args: tuple[Value, ...]
    kwargs: dict[str, Value]
    out: Any

    @property
    def name(self) -> str:
        """Name of the operator without its overload."""
        packet = getattr(self.target, "overloadpacket", None)
        return str(packet.__name__ if packet is not None else self.target)

    @cached_property
    def given(self) -> dict[str, Value]:
        """Operands by their name in the operator's schema, defaults filled in."""
        named: dict[str, Value] = {}
        for position, argument in enumerate(self.target._schema.arguments):
            if position < len(self.args):
                named[argument.name] = self.args[position]
            elif argument.name in self.kwargs:
                named[argument.name] = self.kwargs[argument.name]
            elif argument.has_default_value():
                named[argument.name] = argument.default_value
        return named

    @property
    def outs(self) -> tuple[Any, ...]:
        """The results, also when there is one only."""
        return tuple(self.out) if isinstance(self.out, list | tuple) else (self.out,)

    def packed(self, labels: tuple[Tensor, ...]) -> Value:
        """Labels of `outs` in the form of the result."""
        return labels if isinstance(self.out, list | tuple) else labels[0]


class Unknown(Exception):
    """An operator, or a use of one, that has no rule; its text is the reason for freezing."""


class Dynamic:
    """A value whose size depends on the data: nothing can be said about its channels."""


class Labeller:
    """Labels of an execution, and the layers that were met.

    Attributes:
        space: the labels.
        calls: layers in execution order.
        entries: labels of parameters and buffers that were used as activations, per entry.
        opaque: tensors whose use is not understood -> why.
        guesses: attributes of modules that may hold a number of channels -> these channels.
        counted: whether `calls` are all that multiplies and accumulates.
        site: dotted name of the module whose code is being executed.
        place: module and line of the operator that is being executed, for people.
    """

    def __init__(self, model: nn.Module, observed: Observed) -> None:
        self.space = LabelSpace()
        self.calls: list[LayerCall] = []
        self.entries: dict[str, Tensor] = {}
        self.opaque: dict[str, str] = {}
        self.guesses: list[tuple[str, Tensor]] = []
        self.counted = True
        self.site = self.place = self._operator = ""
        self._observed = observed
        self._modules = dict(model.named_modules())
        names = {id(module): name for name, module in self._modules.items()}
        everywhere = model.named_modules(remove_duplicate=False)
        self._first = {name: names[id(module)] for name, module in everywhere}

    @property
    def module(self) -> nn.Module | None:
        """The module whose code is being executed."""
        return self._modules.get(self.site)

    def enter(self, path: str, operator: str, place: str) -> None:
        """Says whose code comes next; a module used under two names keeps its first."""
        self.site, self.place, self._operator = self._first.get(path, path), place, operator

    def sized(self, *ranges: Tensor) -> bool:
        """Says that the number of channels in each of these labels [n] is written in the code.

        The attributes of the module that hold these numbers will follow a cut.

        Returns:
            Whether there is such an attribute for every number; otherwise nothing is said.
        """
        found = [self._holders(labels) for labels in ranges]
        if not all(found):
            return False
        for names, labels in zip(found, ranges, strict=True):
            for name in names:
                self.space.bind(name, 0, labels)
        return True

    def perhaps_sized(self, labels: Tensor) -> None:
        """Says that the number of these channels may be written in the code, or read off a shape.

        Attributes that hold it follow only if the network cannot be cut without.
        """
        self.guesses += [(name, labels) for name in self._holders(labels)]

    def _holders(self, labels: Tensor) -> list[str]:
        """The module's attributes that hold this number, and that forward uses for such."""
        if self.module is None:
            return []
        found = list(holders(self.module, self.site, len(labels)))
        return self._observed.meant(found, self._operator)

    def tensor(self, value: Value) -> Tensor:
        """The labels of an operand; a parameter becomes an activation with entries of its own."""
        if isinstance(value, Source):
            if value.name not in self.entries:
                if value.shape.numel() > 2**20:
                    raise Unknown(f"{value.name} has too many entries to follow one by one")
                labels = self.space.mint(value.shape.numel()).reshape(value.shape)
                self.entries[value.name] = labels
            return self.entries[value.name]
        if not isinstance(value, Tensor):
            raise Unknown(f"an operand is a {type(value).__name__}")
        return value

    def operands(self, values: Value) -> Value:
        """The same operands with every parameter as an activation."""
        if isinstance(values, list | tuple):
            return [self.operands(value) for value in values]
        return self.tensor(values) if isinstance(values, Source) else values

    def give_up(self, values: Value, reason: str) -> None:
        """Freezes every channel among the operands."""
        if isinstance(values, list | tuple):
            for value in values:
                self.give_up(value, reason)
        elif isinstance(values, dict):
            self.give_up(list(values.values()), reason)
        elif isinstance(values, Source):
            self.opaque.setdefault(values.name, reason)
        elif isinstance(values, Tensor):
            self.space.freeze([values], reason)

    def fixed(self, out: Any, reason: str) -> Value:
        """Labels of a result whose channels must stay, shaped as ``out``."""
        if isinstance(out, list | tuple):
            return tuple(self.fixed(o, reason) for o in out)
        if not isinstance(out, Tensor):
            return out
        if dynamic(out):
            return Dynamic()
        shape = [1] * out.ndim
        if out.ndim:
            shape[min(1, out.ndim - 1)] = out.shape[min(1, out.ndim - 1)]
        labels = self.space.mint(torch.Size(shape).numel()).reshape(shape)
        self.space.freeze([labels], reason)
        return labels.expand(out.shape)


def dynamic(value: Value) -> bool:
    """Whether a value, or one among several, has a size that depends on the data."""
    if isinstance(value, list | tuple):
        return any(dynamic(v) for v in value)
    if isinstance(value, Tensor):
        return any(not isinstance(n, int) for n in value.shape)
    return isinstance(value, Dynamic | torch.SymInt)


Rule = Callable[[Labeller, Op], Value]
"""Labels of the operator's result; raises `Unknown` for uses that it does not cover."""
