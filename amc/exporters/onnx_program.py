"""The network as an ONNX program, and that program in onnxruntime."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from amc.graph.shrink import duplicate
from amc.runtime import feed
from amc.runtime.feed import Feed

Run = Callable[[], object]

BATCH = "batch"
"""What the dimension of samples is called in a file."""


def exported(model: nn.Module, sample: Feed) -> Any:
    """The network as an ONNX program (an `onnx.ModelProto`).

    Raises:
        Exception: of many kinds, where the network or one of its operators cannot be exported.
    """
    args, kwargs = feed.arguments(_on_cpu(sample))
    with hushed():
        copy = duplicate(model).cpu().eval()
        program = torch.onnx.export(copy, args, kwargs=kwargs, dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto


def portable(program: Any) -> Any:
    """An exported program as ONNX, without what only tells where it comes from.

    Names of modules and lines of source files make up a sixth of a small network's file. The first
    dimension of inputs is called "batch" where it may have any size.

    Args:
        program: a `torch.export.ExportedProgram`.

    Raises:
        Exception: of many kinds, where one of its operators cannot be exported.
    """
    with hushed():
        made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    found = made.model_proto
    del found.metadata_props[:], found.graph.metadata_props[:], found.graph.value_info[:]
    for body in (found.graph, *found.functions):
        _bare(body)
    for one in (*found.graph.input, *found.graph.output, *found.graph.initializer):
        del one.metadata_props[:]
        one.ClearField("doc_string")
    symbols = [one.type.tensor_type.shape.dim[:1] for one in found.graph.input]
    symbol = next((dim.dim_param for dims in symbols for dim in dims if dim.dim_param), None)
    for one in (*found.graph.input, *found.graph.output):
        for dim in one.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = BATCH
    return found


def _bare(body: Any) -> None:
    """Takes the notes off the nodes of a graph, and of those inside of them."""
    for node in body.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        for one in node.attribute:
            for inner in (one.g, *one.graphs):
                _bare(inner)


def opened(program: Any, sample: Feed, threads: int = 1) -> Run:
    """A forward pass of an ONNX program in onnxruntime, on the CPU.

    Raises:
        Exception: of many kinds, where the runtime refuses the program.
    """
    import onnxruntime  # seconds of imports, for the end of a run only

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(
        program.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    tensors = feed.leaves(feed.arguments(_on_cpu(sample)))  # in the order of the program's inputs
    given = {one.name: x.numpy() for one, x in zip(made.get_inputs(), tensors, strict=True)}
    return lambda: made.run(None, given)


def _on_cpu(sample: Feed) -> Feed:
    return feed.each(sample, lambda x: x.cpu().contiguous())


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Exporters warn and print of what is not the user's concern."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
