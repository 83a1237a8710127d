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
