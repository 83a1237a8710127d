"""What a network of another package says of itself before it is built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from amc.data.arrays.preprocessing import Preprocessing


@dataclass(frozen=True)
class Facts:
    """From the configuration of a network; no weights are loaded for it.

    Attributes:
        channels: of the images that it takes.
        classes: its outputs; 0: it does not say.
        weights: whose its weights are, as people read it; empty: it has none.
        preprocessing: how its images are made, where it says so.
        note: what cannot be done as it says, for a person.
    """

    channels: int = 3
    classes: int = 0
    weights: str = ""
    preprocessing: Preprocessing | None = None
    note: str = ""

    def __str__(self) -> str:
        """For a person, in a line."""
        heads = f"{self.classes} classes, " if self.classes else ""
        shown = str(self.preprocessing or f"{self.channels} channels, size not said")
        return f"{heads}images {shown}{f'; {self.note}' if self.note else ''}"


class Build(Protocol):
    """Builds a network by its name."""

    def __call__(
        self, name: str, *, num_classes: int, in_channels: int, weights: bool
    ) -> nn.Module:
        """With the weights that it comes with, or with random ones and so many outputs."""


@dataclass(frozen=True)
class Package:
    """How a package's networks are described and built."""

    facts: Callable[[str], Facts]
    build: Build
