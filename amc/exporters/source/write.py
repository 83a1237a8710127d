"""``pruned.py`` beside ``pruned.safetensors``: the network without this project.

The network is exported with batch and image sizes left open, written as plain modules, and run:
what the file makes must put out what the network puts out. Where the network cannot be written so,
its exported program is kept instead, ``pruned.pt2``.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from amc.exporters.export import Source, write
from amc.exporters.source.calls import Program
from amc.exporters.source.file import Fixed, quoted, source_of
from amc.exporters.source.proof import batches, difference, network_of, resized
from amc.exporters.words.literals import class_name
from amc.exporters.words.unwritable import Unwritable
from amc.graph.capture.export import Inputs, export
from amc.graph.shrink import duplicate
from amc.runtime import distributed
from amc.runtime.errors import AmcError, UnsupportedModelError
from amc.runtime.files import write_atomically
from amc.runtime.user_code import one_line

SOURCE, PROGRAM = "pruned.py", "pruned.pt2"

HARMLESS = re.compile(
    r"[^%=<>!]+ (!= [01]|>=? -?[012]|<=? int_oo)|[012] <=? [^%=<>!]+"
    r"|L\[[^%=<>!]+\]\.size\(\)\[[1-9]\] >=? \d+"
)
"""Conditions of `torch.export` that hold for all sizes but those of one pixel; or a least size,
which the file checks."""


def write_source(folder: Path, model: nn.Module, inputs: Inputs) -> list[str]:
    """Writes ``pruned.py``, or ``pruned.pt2`` where that is impossible; fails in no case.

    Args:
        folder: with ``pruned.safetensors``; a program that is there already stays.
        model: with the same weights; never changed.
        inputs: of one execution, at least two samples.

    Returns:
        Lines for a person: why there is no ``pruned.py``.
    """
    if distributed.rank():
        return []
    with torch.random.fork_rng(devices=[]):
        try:
            write_atomically(folder / SOURCE, made(model, inputs)[0])
            return []
        except Unwritable as error:
            instead = _program(folder / PROGRAM, model, inputs)
            reason = one_line(error)
        except Exception as error:  # exporters may fail in any way on somebody's network
            instead, reason = "", one_line(error)[:300]
    (folder / SOURCE).unlink(missing_ok=True)
    return [f"source   no {SOURCE}, {instead or f'no {PROGRAM} either'}: {reason}"]


def _program(path: Path, model: nn.Module, inputs: Inputs) -> str:
    """Writes the exported program, if there is none; says so, nothing where that fails."""
    if not path.exists():
        try:
            write(Source(model, inputs.kwargs or inputs.args), path, "pt2")
        except Exception:  # as above; the line says why there is no file of Python
            return ""
    return f"{PROGRAM} instead"


def made(model: nn.Module, inputs: Inputs) -> tuple[str, float]:
    """The text of ``pruned.py``, and how far its outputs are from the network's.

    Raises:
        Unwritable: the network cannot be written so; the message says what of it.
        AmcError: it cannot even be exported.
    """
    network = duplicate(model).cpu().eval()
    given = inputs.changed(lambda x: x.detach().cpu())
    whole = replace(given, outputs=None)
    try:
        return source(_exported(network, whole), network, whole)
    except (Unwritable, AmcError):
        if given.outputs is None:
            raise
    return source(_exported(network, given), network, given)  # what the task takes of the outputs


def source(exported: Any, network: nn.Module, inputs: Inputs) -> tuple[str, float]:
    """The text of a file that makes the network, and how far its outputs are from the network's.

    Args:
        exported: program of the network.
        network: in eval mode, on the CPU; never changed.
        inputs: that it was exported with.

    Raises:
        Unwritable: the network cannot be written so; the message says what of it.
    """
    program = Program(exported, network, inputs)
    first: Unwritable | None = None
    for plain in (True, False):
        try:
            return _proven(program, plain)
        except Unwritable as error:
            first = first or error
    assert first is not None
    raise first


def _proven(program: Program, plain: bool) -> tuple[str, float]:
    """The text, and how far its outputs are; sizes stay open where that can be shown."""
    sizes = Sizes(program)
    inputs = program.inputs
    same = [inputs, *(batches(program.model, inputs) if sizes.batch else ())]
    if other := sizes.other():
        body = source_of(program, sizes.fixed(True), plain, sizes.least())
        try:
            return _told(program, body, [*same, other], sizes.words(other))
        except Unwritable:  # at this size, or at any
            pass
    body = source_of(program, sizes.fixed(False), plain)
    return _told(program, body, same, sizes.words(None))


def _told(program: Program, body: str, trials: Sequence[Inputs], words: str) -> tuple[str, float]:
    name = class_name(type(program.model).__name__)
    apart = difference(network_of(body, name, program.model), program.model, trials)
    how = "bit by bit" if apart == 0 else f"to {apart:.1g} of the largest"
    said = f"Outputs were compared with the pruned network's: equal {how}, {words}."
    about = (
        f"{name} with fewer channels; needs PyTorch, and safetensors to load its weights.\n\n"
        f'    network = load("pruned.safetensors")  # in eval mode\n\n{textwrap.fill(said, 96)}'
    )
    return f"{quoted(about)}\n\n{body}", apart


class Sizes:
    """Which sizes of the inputs may differ.

    Attributes:
        batch: whether that of the batch may.
        images: whether those of images may.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._tensors: list[Tensor] = [node.meta["val"] for node in program.given]
        self.batch, self.images = free(program.exported)

    def other(self) -> Inputs | None:
        """Inputs of another image size that the network runs on; None: there is none."""
        if not self.images:
            return None
        for divisor in (2, 1):
            sizes = []
            for tensor, real in zip(self._tensors, self._program.inputs.tensors, strict=True):
                dims = range(2, tensor.ndim) if tensor.is_floating_point() else range(0)
                opened = [d for d in dims if isinstance(tensor.shape[d], torch.SymInt)]
                sizes.append({d: _larger(int(real.shape[d]), divisor) for d in opened})
            if not any(sizes):
                return None
            inputs = resized(self._program.inputs, sizes)
            try:
                inputs.run(self._program.model)
            except Exception:  # somebody's network may not run at all sizes
                continue
            return inputs
        return None

    def fixed(self, images: bool) -> Fixed:
        """Sizes that are refused if they differ.

        Args:
            images: whether those of images may.
        """
        found: dict[int, dict[int, int]] = {}
        for place, (tensor, real) in enumerate(
            zip(self._tensors, self._program.inputs.tensors, strict=True)
        ):
            dims = range(2, tensor.ndim) if tensor.is_floating_point() else range(1, tensor.ndim)
            closed = [
                d for d in dims if not (images and isinstance(tensor.shape[d], torch.SymInt))
            ]
            if tensor.ndim and not self.batch:
                closed.insert(0, 0)
            if closed:
                found[place] = {d: int(real.shape[d]) for d in closed}
        return found

    def least(self) -> Fixed:
        """The smallest images that the program is for, where that says anything."""
        ranges = self._program.exported.range_constraints
        found: dict[int, dict[int, int]] = {}
        for place, tensor in enumerate(self._tensors):
            for dim, size in enumerate(tensor.shape):
                known = ranges.get(size.node.expr) if isinstance(size, torch.SymInt) else None
                if known is not None and dim and known.lower > 2:
                    found.setdefault(place, {})[dim] = int(known.lower)
        return found

    def words(self, other: Inputs | None) -> str:
        """What was tried."""
        tried = [self._program.inputs.batch, *((1, 3) if self.batch else ())]
        text = f"in batches of {', '.join(map(str, sorted(tried)))}"
        images = [x for x in self._program.inputs.tensors if x.ndim > 2]
        if not images:
            return text
        shapes = [_shape(images[0])]
        if other is not None:
            shapes.append(_shape(next(x for x in other.tensors if x.ndim > 2)))
        return f"{text}, with inputs {' and '.join(shapes)}"


def _larger(size: int, divisor: int) -> int:
    return size + max(size // divisor, 1)


def free(exported: Any) -> tuple[bool, bool]:
    """Whether the batch and the sizes of images may differ in a program."""
    conditions = getattr(exported, "_guards_code", None) or ()
    single = [part for one in conditions for part in one.split(" and ")]
    guards = [one for one in single if not HARMLESS.fullmatch(one)]
    tensors = [
        node.meta["val"]
        for node in exported.graph.nodes
        if node.name in exported.graph_signature.user_inputs
        and isinstance(node.meta.get("val"), Tensor)
    ]
    first = [x.shape[0] for x in tensors if x.ndim]
    batch = bool(first) and all(isinstance(n, torch.SymInt) for n in first)
    batch = batch and not any(".size()[0]" in guard for guard in guards)
    images = batch and not guards
    return batch, images and any(isinstance(n, torch.SymInt) for x in tensors for n in x.shape[1:])


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape[1:]))


def _exported(network: nn.Module, inputs: Inputs) -> Any:
    """The program with as much left open as can be.

    Raises:
        AmcError: the network cannot be exported.
    """
    program, last = None, AmcError("")
    for images, batch in ((True, True), (False, True), (False, False)):
        try:
            copy = duplicate(network)  # it may leave traces in what it exports
            opened = export(copy, inputs, _open(network, inputs, images) if batch else None)
        except UnsupportedModelError as error:
            last = error
            continue
        if program is None or not batch or free(opened)[0]:
            program = opened
        if free(program)[1] or (free(program)[0] and not images):
            break
    if program is None:
        raise AmcError(str(last))
    return program


def _open(network: nn.Module, inputs: Inputs, images: bool) -> Any:
    """The dimensions that may differ, for every argument."""
    auto = torch.export.Dim.AUTO

    def dims(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim:
            return None
        spatial = range(2, value.ndim) if images and value.is_floating_point() else range(0)
        return {0: auto, **dict.fromkeys(spatial, auto)}

    bound = inspect.signature(network.forward).bind(*inputs.args, **inputs.kwargs)
    return tree_map(dims, dict(bound.arguments))
