"""AMCT: the configuration of its automatic search, and the one that pruning by hand is told.

``compress_ratio`` is original / pruned of the bit complexity. ``override_prune_cfg`` names a
configuration of the second kind, whose layers the search leaves as they are. The second kind stays
a file, because what it says of types and defaults needs the layers of a network (`amct_layers`).
Source: the documentation of `auto_channel_prune_search`, Huawei AMCT.
"""

import math
from typing import Any

from amc.config.formats.amct_layers import of_strategy
from amc.config.formats.amct_messages import PRUNE, SEARCH, new, parsed, text_of
from amc.config.formats.conversions import (
    compression_ratio_of_preserve_ratio,
    preserve_ratio_of_compression_ratio,
    preserve_ratio_of_pruning_level,
    pruning_level_of_preserve_ratio,
)
from amc.config.formats.source import Reading, Source
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError

ALIGNED = 16
"""What ``ascend_optimized`` makes kept counts multiples of."""

LEAST = 1e-6
"""Part of a group that stays where ``max_prune_ratio`` is 1: one channel stays anyway."""

METHOD = {"objective": "bits", "allocator": "sensitivity", "metric": "taylor"}
"""What the search is, in settings."""


def read_search(source: Source) -> Reading:
    """The settings of the automatic search.

    Raises:
        AmcError: a field is unknown or out of range.
    """
    message = parsed(source, SEARCH)
    ratio, most = message.compress_ratio, 1.0
    if not message.HasField("compress_ratio"):
        raise AmcError(f"{source.path}: compress_ratio (original / pruned) is missing")
    if not 1 < ratio < math.inf:
        raise AmcError(
            f"{source.place('compress_ratio')}: compress_ratio (original / pruned) must be above "
            f"1, got {ratio:g}"
        )
    if message.HasField("max_prune_ratio"):
        most = message.max_prune_ratio
        if not 0 < most <= 1:
            where = source.place("max_prune_ratio")
            raise AmcError(f"{where}: max_prune_ratio must be in (0, 1], got {most:g}")
    settings: dict[str, Any] = {
        **METHOD,
        "preserve_ratio": preserve_ratio_of_compression_ratio(ratio),
        "channel_multiple": ALIGNED if message.ascend_optimized else 1,
        "min_ratio": preserve_ratio_of_pruning_level(most) or LEAST,
    }
    if message.HasField("test_iteration"):
        if message.test_iteration < 1:
            where = source.place("test_iteration")
            raise AmcError(
                f"{where}: test_iteration must be 1 or more, got {message.test_iteration}"
            )
        settings["calibration_batches"] = message.test_iteration
    if message.HasField("override_prune_cfg"):
        overrides = source.beside(message.override_prune_cfg)
        try:
            parsed(Source.of(overrides), PRUNE)
        except AmcError as error:
            raise AmcError(f"{source.place('override_prune_cfg')}: {error}") from None
        settings["overrides"] = overrides
    return Reading(settings)


def read_prune(source: Source) -> Reading:
    """Pruning by hand with this file.

    Raises:
        AmcError: a field is unknown.
    """
    parsed(source, PRUNE)
    note = "balanced_l2_norm_filter_prune: channels stay by --metric l2, ratios are those given"
    return Reading({"mode": "list", "strategy": source.path, "metric": "l2"}, (note,))


def write(config: TrainConfig) -> str:
    """The configuration of the search, or of pruning by hand where a strategy is given.

    Raises:
        AmcError: a setting that AMCT has no word for.
    """
    flat = config.flat
    if flat["mode"] == "list":
        return of_strategy(flat["strategy"])
    if flat["mode"] != "auto":
        raise AmcError(f"--mode {flat['mode']}: AMCT has auto and list")
    for name, wanted in METHOD.items():
        if flat[name] != wanted:
            raise AmcError(f"--{name} {flat[name]}: AMCT's search has {wanted}")
    if flat["channel_multiple"] not in (1, ALIGNED):
        raise AmcError(f"--channel-multiple {flat['channel_multiple']}: AMCT has 1 and {ALIGNED}")
    if flat["preserve_ratio"] == 1:
        raise AmcError("--preserve-ratio 1: AMCT compresses by more than 1")
    message = new(SEARCH)
    message.compress_ratio = compression_ratio_of_preserve_ratio(flat["preserve_ratio"])
    message.ascend_optimized = flat["channel_multiple"] == ALIGNED
    if flat["min_ratio"] > LEAST:
        message.max_prune_ratio = pruning_level_of_preserve_ratio(flat["min_ratio"])
    message.test_iteration = flat["calibration_batches"]
    if flat["overrides"] is not None:
        message.override_prune_cfg = str(flat["overrides"])
    return text_of(message)
