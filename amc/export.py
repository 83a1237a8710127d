"""``python -m amc.export``: the network of a run as a file for elsewhere, proven equal.

From Python, ``amc.export(model, path, example_inputs)`` writes any network.
"""

if __name__ == "__main__":  # a mistyped flag is refused before torch is loaded
    from amc.config.exits import interruptible

    interruptible("amc.export")
    from amc.config.command_line import at_once
    from amc.config.run_folders import ExportConfig

    at_once("amc.export", ExportConfig)

import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from amc.config.apply import ApplyConfig
from amc.config.command_line import command
from amc.config.composed import from_json
from amc.config.run_folders import ExportConfig
from amc.config.train import TrainConfig
from amc.exporters.export import Export, Source, write
from amc.exporters.formats import format_of
from amc.graph.capture.bake import bake
from amc.measuring.int8 import Judged, write_int8
from amc.runs.exports import export as exported
from amc.runs.exports import export_lines, file_of, noted
from amc.runs.folder import DEFAULT, saved_settings
from amc.runs.network import baked_by, load_pruned
from amc.runs.terminal import Terminal
from amc.runs.trust import check_owner, code_named
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.runtime.files import expanded
from amc.sparsity.masks import strip
from amc.steps.job import material, open_job
from amc.steps.setup import build_network
from amc.tasks.task import CLASSIFICATION

RUNS: dict[str, type[TrainConfig | ApplyConfig]] = {
    "amc.train": TrainConfig,
    "amc.apply": ApplyConfig,
}
"""Commands whose folders hold a network, and their settings."""


def export(
    model: nn.Module,
    path: Path | str,
    example_inputs: Feed,
    *,
    calibration: Iterable[Any] | None = None,
) -> Export:
    """Writes a network into one file, tries it against PyTorch, and then gives it its name.

    Examples:
        >>> import amc, tempfile, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
        >>> path = tempfile.mkdtemp() + "/model.pt2"
        >>> written = amc.export(model, path, (torch.randn(2, 3, 8, 8),))
        >>> written.error <= written.tolerance
        True
        >>> torch.export.load(path).module()(torch.randn(5, 3, 8, 8)).shape
        torch.Size([5, 2])

    Args:
        model: with its weights, on any device; never changed. Masks on its weights become zeros.
        path: its ending tells the format: .onnx, .pt2, .safetensors, .pt or .pth.
        example_inputs: what the network is called with, a tuple as for `amc.trace`, or a
            dictionary of its keyword arguments; the first dimension of every tensor is the batch.
        calibration: batches of inputs, or of (inputs, anything), as they come in use: with them
            an ONNX file is in 8 bits. Every fourth batch is for comparing ways to calibrate.

    Returns:
        The file, its size, and how far its outputs are from PyTorch's.

    Raises:
        AmcError: the network cannot be written so, or the file does not compute the same; then
            there is none, and an older one stays.
    """
    if not isinstance(model, nn.Module):
        raise AmcError(f"model must be a torch.nn.Module, got {model!r:.80}")
    place = expanded(str(path))
    kind, source = format_of(place), Source(model, example_inputs)
    strip(source.model)
    if calibration is None:
        return write(source, place, kind)
    if kind != "onnx":
        raise AmcError(f"{place}: calibration is for 8 bits, which are written as .onnx")
    batches: list[Feed] = []
    for batch in calibration:
        pair = isinstance(batch, list | tuple) and len(batch) == 2
        batches.append(batch[0] if pair else batch)
    if not batches:
        raise AmcError("calibration: there is no batch")
    compared = batches[3::4] or batches
    kept = [one for n, one in enumerate(batches) if n % 4 < 3]
    return write_int8(source, place, Judged(kept, compared, None, CLASSIFICATION))


def run(config: ExportConfig) -> Export:
    """Writes the network of a run; returns what was written.

    Raises:
        AmcError: there is no such run, or the network cannot be written so.
    """
    terminal = Terminal(config.quiet)
    settings = settings_of_run(config)
    if code := code_named(settings):
        terminal.say(f"code     the settings in {config.run} name code that runs now: {code}")
    torch.manual_seed(settings.seed)
    job = open_job(settings, terminal)
    with terminal.bar("load"):
        given = build_network(job, settings.network)
        if baked_by(config.run):
            given = bake(given.eval(), job.example.args, job.example.kwargs)
        model = load_pruned(given, config.run)
    needed = material(job)
    path = config.output or file_of(config.run, config.name)
    found = exported(Source(model, needed.sample), path, config.name, needed, terminal)
    if path.resolve().parent == config.run.resolve():
        noted(config.run, found.as_json())
    terminal.say(*export_lines([{**found.as_json(), "file": str(path)}], job.task))
    return found


def settings_of_run(config: ExportConfig) -> TrainConfig | ApplyConfig:
    """The settings that the run was made with, for the CPU.

    Raises:
        AmcError: there is no run of a command that leaves one network, or it is of another user.
    """
    folder = config.run
    saved = saved_settings(str(folder), folder)
    made_by = saved.pop("command", DEFAULT)
    saved.pop("threads", None)
    if made_by == "amc.compress":
        raise AmcError(
            f"{folder}: the network was given in Python; there: amc.export("
            f"amc.load_pruned(model, {str(folder)!r}), path, example_inputs)"
        )
    if made_by not in RUNS:
        raise AmcError(f"{folder}: made by {made_by!s:.40}; expected a run of {' or '.join(RUNS)}")
    check_owner("RUN", folder, config.trust)
    changed = {"device": "cpu", "resume": None, "run_dir": str(folder), "quiet": config.quiet}
    return from_json(RUNS[made_by], {**saved, **changed}, folder / "config.json")


def main() -> None:
    """The command."""
    command("amc.export", ExportConfig, run)


class _Callable(ModuleType):
    """This module can be called: ``import amc.export`` takes the name of the function."""

    def __call__(self, *given: Any, **named: Any) -> Export:
        return export(*given, **named)


sys.modules[__name__].__class__ = _Callable
__doc__ = f"{__doc__}\n{export.__doc__}"

if __name__ == "__main__":
    main()
