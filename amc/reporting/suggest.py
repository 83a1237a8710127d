"""What to run after `amc.inspect`: a command that `amc.train` takes, or what is in its way."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from amc.config.composed import decimal, flags
from amc.config.inspect import InspectConfig
from amc.config.sections.job import DataConfig
from amc.graph.channel_graph import ChannelGraph
from amc.models.catalog import is_bundled
from amc.reporting.inspection import Inspection, uniform_strategy

BUNDLED_DATA = {(1, 16, 16): ("digits", 10), (3, 32, 32): ("glyphs", 62)}
"""Shape of an image -> name of the data set, number of classes."""

MEANINGS = {
    "DATA": "your images: imagefolder:/path, cifar10:/path, or module:function of loaders",
    "TASK": "what the network is for: module:object, see --task in python -m amc.train --help",
    "WEIGHTS": "its weights",
}
"""Meanings of the words that only the user can fill in."""


@dataclass(frozen=True)
class Suggestion:
    """The next command.

    Attributes:
        command: words for a shell; empty if there is none.
        open: those of `MEANINGS` that stand in it.
        obstacle: why there is no command, if something else than the network is in the way.
    """

    command: str = ""
    open: tuple[str, ...] = ()
    obstacle: str = ""

    def lines(self) -> list[str]:
        """For a person."""
        if self.obstacle:
            return ["", f"Next: {self.obstacle}"]
        meanings = [f"      {word}: {MEANINGS[word]}" for word in self.open]
        return ["", f"Next: {self.command}", *meanings] if self.command else []


def suggested(
    config: InspectConfig, graph: ChannelGraph, found: Inspection, outputs: Sequence[int] | str
) -> Suggestion:
    """The pruning run with the same network and the same restrictions.

    Args:
        config: of the inspection.
        graph: what can be cut.
        found: what was found.
        outputs: shape of what the network puts out, or why there is none.
    """
    if found.smallest_ratio is None:
        return Suggestion()
    if isinstance(outputs, str):
        return Suggestion(obstacle=outputs)
    data, classes = _data(config, found)
    words = ["--preserve-ratio", decimal(_ratio(config, graph, found.smallest_ratio))]
    words += ["--model", config.model]
    if data != DataConfig.data or config.data is not None:
        words += ["--data", data]
    if config.task == "classification" and len(outputs) != 2:
        words += ["--task", "TASK"]
    elif config.task == "classification" and outputs[1] < classes:
        return Suggestion(
            obstacle=f"the network has {outputs[1]} outputs, but {data} has {classes} classes: it "
            "needs other data, or other outputs"
        )
    if is_bundled(config.model) and config.task != "classification":
        words += ["--checkpoint", "WEIGHTS"]
    words += flags(config, "task", "width", "channel_multiple", "min_ratio", "restrictions")
    open_ones = tuple(word for word in MEANINGS if word in words)
    return Suggestion(shlex.join(["python", "-m", "amc.train", *words]), open_ones)


def _data(config: InspectConfig, found: Inspection) -> tuple[str, int]:
    """Data that fit the network, and their classes; DATA if there are none here."""
    if config.data is not None:
        return config.data, found.num_classes
    shape: Any = found.input_shape
    name, classes = BUNDLED_DATA.get(shape, ("DATA", 0))
    if classes > found.num_classes and is_bundled(config.model):
        return "DATA", 0
    return name, classes


def _ratio(config: InspectConfig, graph: ChannelGraph, smallest: float) -> float:
    """The budget that was asked for, or one half; the smallest where that cannot be kept to."""
    ratio = config.preserve_ratio or 0.5
    if ratio < smallest or uniform_strategy(replace(config, preserve_ratio=ratio), graph)[1]:
        return smallest
    return ratio
