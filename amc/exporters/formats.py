"""The formats of a network's file: how each is written, and how it is read to be tried."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc.exporters.captured import Captured
from amc.exporters.onnx_module import OnnxModule
from amc.exporters.onnx_program import portable
from amc.graph.shrink import load_tensors
from amc.runtime import weights
from amc.runtime.errors import AmcError
from amc.runtime.user_code import one_line

MOST_BYTES = 2**31 - 1
"""Of an ONNX file that is one file: its format counts in 31 bits."""


@dataclass(frozen=True)
class Exporter:
    """One format.

    Attributes:
        suffix: of its files, the first of those that stand for it.
        traced: whether it holds the program, and not the tensors alone.
        write: (network, its program) -> the content of a file; without `traced` there is none.
        read: (file, network, its outputs for anything) -> something that is called as the network.
        aliases: other suffixes.
    """

    suffix: str
    traced: bool
    write: Callable[[nn.Module, Captured | None], bytes]
    read: Callable[[Path, nn.Module, Any], Callable[..., Any]]
    aliases: tuple[str, ...] = ()


def onnx(model: nn.Module, made: Captured | None) -> bytes:
    """An ONNX program.

    Raises:
        AmcError: an operator of the network has no counterpart there, or it is too large.
    """
    assert made is not None
    try:
        program = portable(made.program)
        content: bytes = program.SerializeToString()
    except Exception as error:  # of many kinds
        cause = one_line(root(error))[:300]
        raise AmcError(f"the network cannot be written as ONNX: {cause}; pt2 can") from error
    if len(content) > MOST_BYTES:
        raise AmcError(
            f"as ONNX the network has {len(content):,} bytes, one file holds {MOST_BYTES:,}; "
            "pt2 has no limit"
        )
    return content


def pt2(model: nn.Module, made: Captured | None) -> bytes:
    """A program of `torch.export`, which ``torch.export.load`` reads without the class."""
    assert made is not None
    content = io.BytesIO()
    try:
        torch.export.save(made.program, content)
    except Exception as error:  # of many kinds
        raise AmcError(f"the network cannot be written as pt2: {one_line(error)[:300]}") from error
    return content.getvalue()


def safetensors(model: nn.Module, made: Captured | None) -> bytes:
    """The state dict, without any code."""
    return weights.to_bytes(model)


def state_dict(model: nn.Module, made: Captured | None) -> bytes:
    """The state dict as ``torch.save`` writes it."""
    content = io.BytesIO()
    torch.save({k: v.detach().cpu().clone() for k, v in model.state_dict().items()}, content)
    return content.getvalue()


def read_onnx(path: Path, model: nn.Module, outputs: Any) -> Callable[..., Any]:
    """The program in onnxruntime."""
    return OnnxModule(path, outputs)


def read_pt2(path: Path, model: nn.Module, outputs: Any) -> Callable[..., Any]:
    """The program in PyTorch."""
    program: Callable[..., Any] = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return program


def read_safetensors(path: Path, model: nn.Module, outputs: Any) -> Callable[..., Any]:
    """A copy of the network with the tensors of the file."""
    return load_tensors(model, weights.read(path))


def read_state_dict(path: Path, model: nn.Module, outputs: Any) -> Callable[..., Any]:
    """A copy of the network with the tensors of the file, which holds nothing else."""
    return load_tensors(model, torch.load(path, map_location="cpu", weights_only=True))


def root(error: BaseException) -> BaseException:
    """The first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


EXPORTERS: dict[str, Exporter] = {
    "onnx": Exporter(".onnx", True, onnx, read_onnx),
    "pt2": Exporter(".pt2", True, pt2, read_pt2),
    "safetensors": Exporter(".safetensors", False, safetensors, read_safetensors),
    "state_dict": Exporter(".pt", False, state_dict, read_state_dict, (".pth",)),
}


def format_of(path: Path) -> str:
    """The format that the name of a file stands for.

    Raises:
        AmcError: none; the message lists those that there are.
    """
    for name, one in EXPORTERS.items():
        if path.suffix.lower() in (one.suffix, *one.aliases):
            return name
    known = ", ".join(one.suffix for one in EXPORTERS.values())
    raise AmcError(f"{path}: its name tells no format; one that ends in {known} does")
