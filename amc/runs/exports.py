"""The exports of a run: its network in files for elsewhere, and what report.json says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from amc.exporters.export import Export, Source, write
from amc.exporters.formats import EXPORTERS
from amc.measuring.int8 import STEPS, Judged, write_int8
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.runtime.files import read_json, write_json
from amc.tasks.task import Task

INT8 = "int8"
"""What the ONNX program in 8 bits is called among the formats."""


@dataclass(frozen=True)
class Material:
    """What an export needs besides the network.

    Attributes:
        sample: some inputs of the network, which every file is tried with.
        judged: what a network in 8 bits is calibrated and measured with.
    """

    sample: Feed
    judged: Judged


def file_of(folder: Path, name: str) -> Path:
    """Where an export goes unless it is said."""
    return folder / ("pruned.int8.onnx" if name == INT8 else f"pruned{EXPORTERS[name].suffix}")


def exported(
    model: nn.Module, folder: Path, formats: str, material: Material, terminal: Terminal
) -> list[dict[str, Any]]:
    """Writes the files that ``--export`` names into the run folder.

    Args:
        model: never changed.
        folder: of the run.
        formats: names, separated by commas.
        material: what they are tried and measured with.
        terminal: where progress is shown.

    Returns:
        What report.json says of each; of one that could not be written ``format`` and ``problem``,
        for a run that has trained for hours does not end with that.
    """
    names = list(dict.fromkeys(filter(None, map(str.strip, formats.split(",")))))
    source, done = Source(model, material.sample) if names else None, []
    for name in names:
        assert source is not None
        try:
            found = export(source, file_of(folder, name), name, material, terminal)
            done.append(found.as_json())
        except AmcError as error:
            done.append({"format": name, "problem": str(error)})
    return done


def export(
    source: Source, path: Path, name: str, material: Material, terminal: Terminal
) -> Export:
    """Writes one file.

    Args:
        source: the network.
        path: of the file.
        name: of a format, or `INT8`.
        material: what it is tried and measured with.
        terminal: where progress is shown.

    Raises:
        AmcError: it cannot be written, or differs; an older file stays.
    """
    if name != INT8:
        with terminal.bar(f"export {name}"):
            return write(source, path, name)
    with terminal.bar("export int8", STEPS) as bar:
        return write_int8(source, path, material.judged, bar.step)


def export_lines(exports: Sequence[Mapping[str, Any]], task: Task) -> list[str]:
    """What a person is told of files, from what report.json says of them."""
    return [line for one in exports for line in _lines(one, task)]


def refuse_failed(exports: Sequence[Mapping[str, Any]]) -> None:
    """Ends a command whose network could not be exported, once all else is written.

    Raises:
        AmcError: the first problem.
    """
    for one in exports:
        if "problem" in one:
            raise AmcError(f"--export {one['format']}: {one['problem']}; the run is complete")


def _lines(one: Mapping[str, Any], task: Task) -> list[str]:
    if "problem" in one:
        return [f"export   {one['format']}: {one['problem']}"]
    sizes, found = ", ".join(map(str, one["batches"])), one["int8"]
    said = (
        f"export   {one['file']}: {one['bytes']:,} bytes, error {one['error']:.1e} with batches "
        f"of {sizes} ({one['tolerance']:g} allowed)"
    )
    if found is None:
        return [said]
    words = [
        f"{found['bytes_ratio']:.1%} of the bytes in 32 bits",
        f"{found['latency_ms']:.3g} ms ({found['float_latency_ms']:.3g}) a sample in "
        f"{found['runtime']}",
    ]
    if "accuracy" in found:
        before, after = task.shown(found["float_accuracy"]), task.shown(found["accuracy"])
        words.insert(0, f"test {task.name} {after} ({before} in 32 bits)")
    return [said, f"int8     {'; '.join(words)}"]


def noted(folder: Path, found: Mapping[str, Any]) -> None:
    """Adds an export to the report of a run that is over; a file of the same name is told anew."""
    path = folder / "report.json"
    if not path.is_file():
        return
    report = read_json(path)
    if not isinstance(report, dict):
        raise AmcError(f"{path}: expected an object, got {type(report).__name__}")
    before = [one for one in report.get("exports") or [] if one.get("file") != found["file"]]
    write_json(path, {**report, "exports": [*before, found]})
