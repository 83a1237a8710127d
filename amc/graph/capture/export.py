"""The network as a graph of ATen operators, or one line about what is in the way."""

import contextlib
import functools
import io
import logging
import math
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from amc.runtime.errors import UnsupportedModelError
from amc.tasks.precision import precise

LIBRARY = str(Path(torch.__file__).parent)
HERE = str(Path(__file__).parents[2]) + os.sep


@dataclass(frozen=True)
class Inputs:
    """The arguments of one execution, and what of its outputs is of interest.

    Attributes:
        args: positional.
        kwargs: by name.
        outputs: takes it of what the network returns; without it, it is everything.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    outputs: Callable[[Any], Any] | None = None

    def run(self, model: nn.Module) -> Any:
        """The network's outputs of interest: without gradients, random operators always alike.

        It gets copies, as it may write into its inputs.
        """
        args, kwargs = self.map(Tensor.clone)
        with precise(), torch.no_grad(), torch.random.fork_rng(devices=self._devices):
            torch.manual_seed(0)
            found = model(*args, **kwargs)
            return found if self.outputs is None else self.outputs(found)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same execution with every tensor changed."""
        return Inputs(*self.map(change), self.outputs)

    def map(self, change: Callable[[Tensor], Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with every tensor changed."""
        args, kwargs = tree_map(
            lambda x: change(x) if isinstance(x, Tensor) else x, (self.args, self.kwargs)
        )
        return args, kwargs

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]

    @property
    def batch(self) -> int:
        """Samples: the first dimension of the first tensor."""
        return next((int(x.shape[0]) for x in self.tensors if x.ndim), 1)

    @property
    def _devices(self) -> list[torch.device]:
        return [x.device for x in self.tensors if x.is_cuda][:1]


def export(model: nn.Module, inputs: Inputs, shapes: Any = None) -> Any:
    """The exported program of the network in its present mode.

    Args:
        model: not changed, but what export leaves in it is not known.
        inputs: of one execution.
        shapes: dimensions that may differ, as `torch.export.export` takes them; None: none may.

    Raises:
        UnsupportedModelError: it cannot be exported; the message names the line that stops it.
    """
    if not isinstance(inputs.args, tuple):
        raise UnsupportedModelError(
            f"example_inputs must be a tuple such as (images,), got {type(inputs.args).__name__}"
        )
    lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise UnsupportedModelError(
            f"{lazy[0]} has no shape yet: run the network once before it is traced"
        )
    try:
        with _silence(), torch.no_grad(), _taking(model, inputs.outputs):
            return torch.export.export(model, *inputs.map(Tensor.clone), dynamic_shapes=shapes)
    except (Exception, SystemExit) as error:  # of dozens of types; all mean "not exportable"
        raise UnsupportedModelError(_diagnosis(model, inputs, error)) from error


def count_macs(program: Any, inputs: Inputs) -> int:
    """MACs of the exported operators, as PyTorch counts them; of fused ones it may count none."""
    with torch.no_grad(), counting() as counter:
        args, kwargs = inputs.map(Tensor.clone)
        program.module()(*args, **kwargs)
    return int(counter.get_total_flops()) // 2


def counting() -> FlopCounterMode:
    """PyTorch's counter, which also counts attention as processors fuse it: it leaves that out."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={fused: _attention_flops})


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *others: Any, **named: Any
) -> int:
    """Operations of two products, of shapes [batch, heads, rows, columns]."""
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


@contextlib.contextmanager
def _taking(model: nn.Module, outputs: Callable[[Any], Any] | None) -> Iterator[None]:
    """The network returns what of its outputs is of interest; its tensors keep their names."""
    if outputs is None:
        yield
        return
    own, forward = "forward" in vars(model), model.forward

    @functools.wraps(forward)
    def taken(*args: Any, **kwargs: Any) -> Any:
        return outputs(forward(*args, **kwargs))

    model.forward = taken
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps what export prints, logs and warns about its own failures off the terminal."""
    disabled, sink = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _diagnosis(model: nn.Module, inputs: Inputs, error: BaseException) -> str:
    """What stops the export, where, and what to change."""
    name = type(model).__name__
    try:
        inputs.run(model)
    except (Exception, SystemExit) as own:  # the user's forward may fail in any way
        return f"{name} does not run on the example inputs: {describe(own)}"
    return f"{name} cannot be traced: {describe(error)}; {_advice(error)}"


def describe(error: BaseException) -> str:
    """The last line of the user's code on the way to an error, and what the error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0].split(" (unhinted")[0][:200] if lines else ""
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((LIBRARY, HERE, "<"))
    ]
    if not frames:
        return text
    code = f" `{frames[-1].line}`" if frames[-1].line else ""
    return f"{frames[-1].filename}:{frames[-1].lineno}{code}: {text}"


def _advice(error: BaseException) -> str:
    """What to change in the network, by the kind of failure."""
    text = f"{type(error).__name__} {error}"
    if any(sign in text for sign in ("DataDependent", "data-dependent", "Eq(u0", "unbacked")):
        return (
            "a branch or size depends on the values of a tensor: use torch.where, or move that "
            "part out of forward"
        )
    if "numpy" in text:
        return "forward leaves torch: use torch operators in place of numpy"
    if "output" in text and "type" in text:
        return (
            "let forward return tensors, tuples, lists or dicts of them, or register the class "
            "with torch.export.register_dataclass"
        )
    if "assigned" in text or "mutat" in text.lower():
        return "forward changes the module: register what it keeps as a buffer, or do not keep it"
    return "torch.export.export(model, example_inputs) must run; its message tells more"
