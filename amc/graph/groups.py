"""Channel groups: which slices of which tensors must go together, and the graph of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from amc.graph.arrays import IntArray


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that belongs to a group.

    Attributes:
        tensor: dotted name of a parameter or buffer, or ``@`` and an attribute (`attributes`).
        dim: its dimension.
        index: [size, m] slices along ``dim`` that go with each channel of the group; m > 1 after
            a flatten (height x width features a channel) or in a grouped convolution.
    """

    tensor: str
    dim: int
    index: IntArray


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together: one decision.

    Attributes:
        name: the first layer that produces these channels.
        size: number of channels (units of the decision).
        members: every tensor dimension that shrinks with them.
        writers: layers whose output channels these are, in execution order.
        readers: layers that read them and can be reconstructed, in execution order.
        reason: why the group must stay whole; empty when it can be pruned.
        residual: whether several layers are added up in these channels.
        width: output channels of the writing layers that go with each channel of the group.
        unit: what one channel of the group is: "channel", or "head" where it is a whole attention
            head, its queries, keys and values.
        least, most: bounds on the kept channels; 0 stands for ``size`` in ``most``. Channels that
            meet zeros put beside others may all go.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    reason: str = ""
    residual: bool = False
    width: int = 1
    unit: str = "channel"
    least: int = 1
    most: int = 0

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most channels that the group may keep."""
        return self.least, self.most or self.size

    @property
    def prunable(self) -> bool:
        """Whether channels of this group may be removed."""
        return not self.reason


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, all of its executions taken together.

    Attributes:
        name: dotted module name (or the parameter's name for a functional layer).
        weight, bias: dotted names of its tensors.
        kind: conv2d, depthwise, linear, conv_transpose2d ...
        in_dim, out_dim: dimensions of the weight that hold input and output channels.
        in_channels, out_channels: of the original network.
        macs: multiply-accumulates per sample in the original network.
        positions: how often the weight is applied per batch (for the cost model).
        calls: how often the layer is executed in a forward pass.
        height, width, stride, kernel: of its first execution.
        groups: of the convolution.
        out_group: name of the group of its output channels.
    """

    name: str
    weight: str
    bias: str | None
    kind: str
    in_dim: int
    out_dim: int
    in_channels: int
    out_channels: int
    macs: int
    positions: int
    calls: int
    height: int
    width: int
    stride: int
    kernel: int
    groups: int
    out_group: str


@dataclass(frozen=True)
class Activation:
    """A tensor that a forward pass keeps for a while; views of it and writes into it are it.

    Attributes:
        first, last: the operators, by their numbers, during which it is there.
        fixed: bytes of the whole batch that no channel changes.
        per_channel: bytes of the whole batch for each channel of groups.
    """

    first: int
    last: int
    fixed: int
    per_channel: Mapping[str, int]


@dataclass(frozen=True)
class Product:
    """An operator without a weight of its own, such as a product of two activations.

    Attributes:
        macs: multiply-accumulates of the whole batch in the original network.
        axes: one or two sizes that it is proportional to: the size in the original network, and
            by how much one channel of which group adds to it.
    """

    macs: int
    axes: tuple[tuple[int, Mapping[str, int]], ...]
