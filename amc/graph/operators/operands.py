"""What the operators of an exported graph are given: their operands, layers, costs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from amc.graph.capture.export import counting

Value: TypeAlias = Any  # a label tensor, a Source, a number, None, or a tuple / list of these


@dataclass(frozen=True)
class Source:
    """A parameter or buffer of the model that has not been used as an activation (yet).

    Attributes:
        name: dotted.
        shape: as it is used.
        dims: which dimension of the tensor each of these is, None for one that was put in; empty
            when it is used as it is held.
    """

    name: str
    shape: torch.Size
    dims: tuple[int | None, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is used as it is held."""
        return not self.dims

    def dim(self, place: int) -> int | None:
        """The tensor's own dimension."""
        return self.dims[place] if self.dims else place

    def moved(self, op: "Op") -> "Source | None":
        """The result of an operator that only reorders dimensions, or puts some in."""
        if op.name == "expand":
            new = op.out.ndim - len(self.shape)
            both = zip(op.out.shape[new:], self.shape, self._held, strict=True)
            own = all(now == before or held is None for now, before, held in both)
            return Source(self.name, op.out.shape, (None,) * new + self._held) if own else None
        sizes = tuple(range(2, 2 + len(self.shape)))  # all different, so that each can be told
        ones = torch.empty([1 if d is None else n for n, d in zip(sizes, self._held, strict=True)])
        moved = op.target(ones.to("meta"), *op.args[1:], **op.kwargs).shape
        if moved.numel() != ones.numel() or {n for n in moved if n > 1} != set(ones.shape) - {1}:
            return None
        dims = tuple(self._held[sizes.index(n)] if n > 1 else None for n in moved)
        return Source(self.name, torch.Size(op.out.shape), dims)

    @property
    def held(self) -> tuple[int, ...]:
        """The shape of the tensor itself."""
        sizes = {d: n for d, n in zip(self._held, self.shape, strict=True) if d is not None}
        return tuple(sizes[d] for d in sorted(sizes))

    @property
    def _held(self) -> tuple[int | None, ...]:
        return self.dims or tuple(range(len(self.shape)))

    def view(self, held: Tensor) -> Tensor:
        """A tensor of the held shape in the order of these dimensions."""
        if not self.dims:
            return held
        order = [d for d in self.dims if d is not None]
        moved = held.permute(order)
        for place, d in enumerate(self.dims):
            moved = moved.unsqueeze(place) if d is None else moved
        return moved.expand(self.shape)


@dataclass(frozen=True)
class Rows:
    """Some outputs of a layer: rows of a weight, or entries of a bias, that are used as such.

    Attributes:
        source: the whole.
        start, stop: the rows.
    """

    source: Source
    start: int
    stop: int

    @property
    def shape(self) -> torch.Size:
        """Of these rows."""
        return torch.Size((self.stop - self.start, *self.source.shape[1:]))


@dataclass(frozen=True)
class LayerCall:
    """One execution of a convolution, a linear layer, or another operator with a weight.

    Attributes:
        weight, bias: dotted names of its tensors.
        kind: conv2d, depthwise, linear, conv_transpose2d, matmul, lstm, embedding ...
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
class ProductCall:
    """One execution of an operator without a weight whose cost follows channels.

    Attributes:
        macs: of the whole execution.
        axes: labels along one or two dimensions; the cost is proportional to either's size.
    """

    macs: int
    axes: tuple[Tensor, ...]


@dataclass(frozen=True)
class Kept:
    """A tensor of the execution, and the numbers of the operators while which it is there."""

    labels: Tensor
    bytes_per_entry: int
    first: int
    last: int


@dataclass(frozen=True)
class Op:
    """One operator of the exported graph, its operands already labels.

    Attributes:
        target: the ATen operator.
        args, kwargs: operands as written.
        out: the (fake) value of its result, for shapes.
        fakes: its operands as (fake) values, (args, kwargs).
    """

    target: Any
    args: tuple[Value, ...]
    kwargs: dict[str, Value]
    out: Any
    fakes: tuple[Any, Any] = ((), {})

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

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates, as PyTorch's counter sees them: it runs once on zeros."""
        with torch.no_grad(), counting() as counter:
            args, kwargs = tree_map(_zeros, self.fakes)
            self.target(*args, **kwargs)
        return int(counter.get_total_flops()) // 2


def _zeros(x: Any) -> Any:
    """Zeros in place of a tensor; of one type, as regions under autocast mix them."""
    if not isinstance(x, Tensor):
        return x
    dtype = torch.float32 if x.is_floating_point() else x.dtype
    return torch.zeros(x.shape, dtype=dtype, device=x.device)


class Unknown(Exception):
    """An operator, or a use of one, that has no rule; its text is the reason for freezing."""


class Dynamic:
    """A value whose size depends on the data: nothing can be said about its channels."""


def dynamic(value: Value) -> bool:
    """Whether a value, or one among several, has a size that depends on the data."""
    if isinstance(value, list | tuple):
        return any(dynamic(v) for v in value)
    if isinstance(value, Tensor):
        return any(not isinstance(n, int) for n in value.shape)
    return isinstance(value, Dynamic | torch.SymInt)
