"""The layers that a user wants cut, in words."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from amc.runtime.limits import whole
from amc.runtime.names import targets_in


@dataclass(frozen=True)
class Restrictions:
    """The user's restrictions. A pattern is a layer's name, a glob, or a type.

    Globs are those of file names (``layer1.*``); types are class names (``Conv2d``) or kinds of
    operators (``conv2d``, ``depthwise``, ``linear``, ``conv_transpose2d``). Behind ``{re}`` stands
    a regular expression, looked for in a layer's name (``{re}layer[12]``).

    Examples:
        >>> import amc
        >>> amc.Restrictions(include=("layer1.*", "Conv2d"), min_channels={"conv1": 8}).exclude
        ()
    """

    target: str = "channels,heads"
    """What can go, with commas: channels, heads (of attention), weights or blocks (zeros); and
    module:function of the graph, which returns one in which more stays."""
    include: tuple[str, ...] = ()
    """Only cut outputs of these layers: names, globs such as layer1.*, types such as Conv2d."""
    exclude: tuple[str, ...] = ()
    """Never cut outputs of these layers."""
    min_channels: Mapping[str, int] = field(default_factory=dict)
    """Fewest output channels of layers: PATTERN N [PATTERN N ...]."""
    max_channels: Mapping[str, int] = field(default_factory=dict)
    """Most output channels of layers: PATTERN N [PATTERN N ...]."""
    prune_first_conv: bool = True
    """Cut outputs of the layers that read the network's input."""
    prune_downsample: bool = True
    """Cut outputs of convolutions with a stride."""
    prune_residual: bool = True
    """Cut residual streams, and not only the inside of blocks."""

    def __post_init__(self) -> None:
        targets_in(self.target)  # whether a function is there shows before the run begins
        for name in ("min_channels", "max_channels"):
            for channels in getattr(self, name).values():
                whole(name, channels, 0)  # the least that makes sense is the layer's to say

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the target, without a function; never empty."""
        return targets_in(self.target)[0]

    @property
    def heads(self) -> bool:
        """Whether heads of attention can go."""
        return "heads" in self.targets

    @property
    def function(self) -> str:
        """``module:function`` of the target; empty if there is none."""
        return targets_in(self.target)[1]
