"""What goes together with a target of weights or blocks, and what does not."""

from dataclasses import fields
from typing import Any

from amc.config.sections.job import ReconstructionConfig, RewardConfig
from amc.config.sections.recovery import StagesConfig, TrainingConfig
from amc.config.sections.search import SearchConfig
from amc.config.sections.sparsity import (
    ONE_SHOT,
    SparsityConfig,
    check_epochs,
    check_schedule,
)
from amc.graph.restrictions import Restrictions
from amc.runtime.errors import AmcError
from amc.runtime.limits import flag
from amc.runtime.names import STRUCTURES, WEIGHT_METRICS, ZEROS, metrics_in

USUAL = "magnitude"
"""The metric of weights if none is named."""

OF_CHANNELS = (
    "min_channels", "max_channels", "prune_first_conv", "prune_downsample", "prune_residual",
)  # fmt: skip
"""Restrictions that only channels know."""


def zeros_in(choice: Restrictions) -> str:
    """The word of a target that makes zeros, weights or blocks; empty if there is none."""
    return next((word for word in choice.targets if word in ZEROS), "")


def structures_in(choice: Restrictions) -> tuple[str, ...]:
    """The words of a target that are removed: channels, heads."""
    return tuple(word for word in choice.targets if word in STRUCTURES)


def metric_for(choice: Restrictions, metric: str) -> str:
    """The metrics that a target needs, where some are not named: one, or two with a comma.

    Raises:
        AmcError: a metric of channels for weights, or of weights for channels.
    """
    of_channels, of_weights = metrics_in(metric)
    if not zeros_in(choice):
        if not of_channels or "," in metric:
            named = of_weights or metric
            raise AmcError(
                f"--metric {metric}: {named} chooses weights, --target {choice.target} cuts "
                f"{' and '.join(choice.targets)}; --target weights makes zeros"
            )
        return metric
    if structures_in(choice):
        return f"{of_channels or ReconstructionConfig.metric},{of_weights or USUAL}"
    if "," in metric or (not of_weights and metric != ReconstructionConfig.metric):
        raise AmcError(
            f"--metric {metric}: {of_channels} chooses channels; for --target {choice.target} "
            f"allowed are {', '.join(WEIGHT_METRICS)}"
        )
    return of_weights or USUAL


def refuse_zeros(command: str, choice: Restrictions, reconstruction: ReconstructionConfig) -> None:
    """Refuses weights and blocks in a command that only removes.

    Raises:
        AmcError: the target, and the command that knows it.
    """
    if zeros := zeros_in(choice):
        raise AmcError(
            f"--target {choice.target}: {command} removes channels; zeros among {zeros} are made "
            "by python -m amc.train and amc.compress"
        )
    metric_for(choice, reconstruction.metric)


def check_sparse(
    choice: Restrictions,
    sparsity: SparsityConfig,
    reconstruction: ReconstructionConfig,
    training: TrainingConfig,
    stages: StagesConfig,
    max_drop: float | None,
) -> None:
    """Refuses settings of sparsity that contradict each other, the target, or the training.

    Raises:
        AmcError: the setting, and what would do.
    """
    if not (zeros := zeros_in(choice)):
        if given := given_in(sparsity):
            raise AmcError(
                f"{flag(given)} belongs to --target weights or blocks, not to {choice.target}"
            )
        return
    metric, own = reconstruction.of_weights, bool(training.finetune)
    if zeros == "blocks" and metric == "const":
        raise AmcError(
            "--metric const keeps the zeros that there are, blocks or not: --target weights"
        )
    if (zeros == "blocks") != bool(sparsity.block):
        raise AmcError(
            "--target blocks and --block belong together, such as --block 1x4 or 2:4"
            if zeros == "blocks"
            else f"--block {sparsity.block} belongs to --target blocks, not to {choice.target}"
        )
    schedule = sparsity.schedule_for(metric, own)
    check_schedule(sparsity, schedule)
    _check_metric(sparsity, metric, schedule)
    if own and (schedule != ONE_SHOT or metric == "rb"):
        what = "--metric rb" if metric == "rb" else f"--sparsity-schedule {schedule}"
        raise AmcError(f"--finetune {training.finetune}: {what} needs the built-in training")
    check_epochs(sparsity, schedule, training.finetune_epochs)
    if stages.several or max_drop is not None:
        word = "--max-drop" if max_drop is not None else "a cut in several stages"
        raise AmcError(
            f"{word} is for what is removed alone; --target {choice.target} trains with "
            "--sparsity-schedule"
        )


def _check_metric(sparsity: SparsityConfig, metric: str, schedule: str) -> None:
    if metric in ("const", "obs") and schedule != ONE_SHOT:
        raise AmcError(
            f"--metric {metric} chooses once, before training; --sparsity-schedule {schedule} "
            "belongs to magnitude, normed_magnitude, rb"
        )
    if metric == "rb" and schedule == ONE_SHOT:
        raise AmcError("--metric rb learns its masks; --sparsity-schedule one-shot leaves no time")
    if metric != "rb" and sparsity.sparsity_rate is not None:
        raise AmcError(f"--sparsity-rate belongs to --metric rb, not to {metric}")
    if metric in ("rb", "const") and sparsity.sparsity_allocation != "global":
        raise AmcError(
            f"--sparsity-allocation {sparsity.sparsity_allocation}: --metric {metric} finds by "
            "itself how many of each layer stay"
        )
    if metric == "const" and sparsity.sparsity != SparsityConfig.sparsity:
        raise AmcError(
            f"--sparsity {sparsity.sparsity:g}: --metric const keeps the zeros that there are"
        )


def check_removed(
    choice: Restrictions,
    sparsity: SparsityConfig,
    preserve_ratio: tuple[float, float],
    *sections: Any,
) -> None:
    """Refuses settings of channels where none is removed.

    Args:
        choice: with the target.
        sparsity: whether zeros are shared out by a search.
        preserve_ratio: as it is given, and as it usually is.
        sections: what else is given; what a search needs is of use to one for zeros.

    Raises:
        AmcError: the setting, and the target that knows it.
    """
    if not zeros_in(choice) or structures_in(choice):
        return
    ratio, usual = preserve_ratio
    found = "preserve_ratio" if ratio != usual else ""
    for name in OF_CHANNELS:
        found = found or (name if getattr(choice, name) != getattr(Restrictions(), name) else "")
    searched = sparsity.sparsity_allocation == "search"
    for section in sections:
        if not (searched and isinstance(section, SearchConfig | RewardConfig)):
            found = found or given_in(section)
    if found:
        searching = ", or to --sparsity-allocation search" if found in SEARCHING else ""
        raise AmcError(
            f"{flag(found)} belongs to channels, --target channels,{zeros_in(choice)}{searching}; "
            f"not to {choice.target} alone"
        )


SEARCHING = {one.name for kind in (SearchConfig, RewardConfig) for one in fields(kind)}


def words_of_zeros(zeros: str, metric: str, sparsity: SparsityConfig) -> list[str]:
    """For the name of a run's folder: weights-0.7, blocks-1x4-obs-0.5, weights-const."""
    words = [zeros, *([sparsity.block.replace(":", "of")] if sparsity.block else [])]
    words += [metric] if metric != USUAL else []
    words += [ways] if (ways := sparsity.sparsity_allocation) != "global" else []
    return words if metric == "const" else [*words, f"{sparsity.sparsity:g}"]


def given_in(section: Any) -> str:
    """The first setting of a section that is not its default; empty if there is none.

    But for `walks`, which a run writes down as it is where it runs.
    """
    usual, names = type(section)(), (one.name for one in fields(section))
    found = (n for n in names if n != "walks" and getattr(section, n) != getattr(usual, n))
    return next(found, "")
