"""Every setting of ``python -m amc.inspect``."""

from dataclasses import dataclass
from pathlib import Path

from amc.config.example import ExampleConfig
from amc.config.sections.job import Multiple
from amc.graph.restrictions import Restrictions
from amc.runtime.files import as_paths
from amc.runtime.limits import WIDEST, flag, whole, within


@dataclass(frozen=True)
class InspectConfig(ExampleConfig):
    """Shows the layers of a network, which channels can be pruned, and how far; runs nothing."""

    command = "amc.inspect"

    batch: int = 1
    """Images in the batch that the network is traced with; costs are per image."""

    restrictions: Restrictions = Restrictions()
    """Which layers may be cut."""

    channel_multiple: Multiple = "auto"
    """Kept channels are multiples of this; 1: any number. auto: 8, or the largest of 4, 2, 1 under
    which --preserve-ratio leaves a search enough strategies; without one, 1."""
    min_ratio: float = 0.1
    """No group keeps less than this part of its channels."""
    preserve_ratio: float | None = None
    """Also show what the uniform strategy keeps with this part of the MACs, in (0, 1]."""

    plot: Path | None = None
    """Draw layers and groups: a name that ends in .svg, .png or .pdf."""
    json: Path | None = None
    """Write the whole account, with complete lists; -: on standard output, and nothing else
    there."""

    def __post_init__(self) -> None:
        as_paths(self)
        for name in ("preserve_ratio", "min_ratio"):
            if (ratio := getattr(self, name)) is not None:
                within(flag(name), ratio, 0, 1)
        within("--width", self.width, 0, WIDEST)
        for name in ("batch", "num_classes", "channel_multiple"):
            if (number := getattr(self, name)) not in (None, "auto"):
                whole(name, number, 1)
