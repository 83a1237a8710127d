"""The network as an exported program, for batches of any size where the network allows it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ShapesCollection
from torch.utils._pytree import tree_leaves, tree_map

from amc.exporters.onnx_program import hushed
from amc.graph.capture.export import Inputs, export
from amc.graph.shrink import duplicate
from amc.runtime import feed
from amc.runtime.feed import Feed

TRACED = 2
"""Samples of the batch that a program is traced with: of one, torch takes the size as fixed."""

OTHERS = (1, 3)
"""Numbers of samples that a program for any number is tried with."""


@dataclass(frozen=True)
class Captured:
    """A network in eval mode on the CPU, as a program.

    Attributes:
        program: a `torch.export.ExportedProgram`, without inputs and paths of this machine.
        batch: the only number of samples that it takes; None: any.
    """

    program: Any
    batch: int | None


def captured(model: nn.Module, sample: Feed) -> Captured:
    """The program of a network, which is never changed.

    Args:
        model: on any device, in any mode.
        sample: some inputs; as many rows as there are of the first tensor count as samples.

    Raises:
        UnsupportedModelError: it cannot be exported; the message names the line that stops it.
    """
    copy = duplicate(model).cpu().eval()
    try:
        found = Captured(_dynamic(copy, batch_of(sample, TRACED)), None)
    except Exception:  # of dozens of types; with a fixed batch it may be possible
        found = Captured(None, 1)
    if found.program is None or not _any_batch(found.program, copy, sample):
        inputs = Inputs(*feed.arguments(batch_of(sample, 1)))
        found = Captured(export(copy, inputs), 1)
    _forget(found.program)
    return found


def batch_of(sample: Feed, count: int) -> Feed:
    """So many samples on the CPU: the first ones, over again where there are fewer."""
    rows = next((len(x) for x in feed.leaves(sample) if isinstance(x, Tensor) and x.ndim), 0)

    def some(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not x.ndim or len(x) != rows:
            return x.detach().cpu()
        return x.detach()[torch.arange(count) % rows].cpu().contiguous()

    found: Feed = tree_map(some, sample)
    return found


def _dynamic(model: nn.Module, sample: Feed) -> Any:
    shapes: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    args, kwargs = feed.arguments(sample)
    for tensor in feed.leaves(sample):
        if isinstance(tensor, Tensor) and tensor.ndim and len(tensor) == TRACED:
            shapes[tensor] = {0: Dim.AUTO}
    with hushed(), torch.no_grad():
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes)


def _any_batch(program: Any, model: nn.Module, sample: Feed) -> bool:
    """Whether it takes batches that it was not traced with: a loop over samples is unrolled."""
    with hushed(), torch.no_grad():
        run = program.module()
        for size in OTHERS:
            args, kwargs = feed.arguments(batch_of(sample, size))
            try:
                found, wanted = (
                    tree_leaves(run(*args, **kwargs)),
                    tree_leaves(model(*args, **kwargs)),
                )
            except Exception:  # of many kinds
                return False
            shapes = [[x.shape for x in y if isinstance(x, Tensor)] for y in (found, wanted)]
            if shapes[0] != shapes[1]:
                return False
    return True


def _forget(program: Any) -> None:
    """Takes out what a file should not tell: the example's values, paths of source files."""
    program._example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
