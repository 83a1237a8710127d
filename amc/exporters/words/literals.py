"""Values as Python text that gives the same values, and names that are safe to write."""

from __future__ import annotations

import keyword
import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from amc.exporters.words.unwritable import Unwritable

MOST = 1024
"""Numbers of a tensor that may be written down."""

_TAKEN = frozenset(dir(nn.Module())) | {"self"}


def literal(value: Any) -> str:
    """Text that gives the value.

    Raises:
        Unwritable: it is of no kind that can be written down.
    """
    if isinstance(value, bool | type(None)):
        return repr(value)
    if isinstance(value, str):
        return repr(str(value))
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float):
        number = float(value)  # not that of NumPy, whose text is another
        return repr(number) if math.isfinite(number) else f'float("{number}")'
    if isinstance(value, complex):
        return f"complex({literal(value.real)}, {literal(value.imag)})"
    if isinstance(value, torch.dtype | torch.memory_format):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    raise Unwritable(f"a constant of type {type(value).__name__} cannot be written down")


def tensor_literal(tensor: Tensor) -> str:
    """Text that gives a tensor, on the CPU.

    Raises:
        Unwritable: it has too many numbers, or is no ordinary tensor.
    """
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise Unwritable(f"a constant tensor of layout {tensor.layout} cannot be written down")
    value = tensor.detach().cpu()
    dtype = f"dtype={value.dtype}"
    if (text := _regular(value)) is not None:
        return text
    if value.numel() > MOST:
        raise Unwritable(
            f"a constant of {value.numel():,} numbers, {list(value.shape)}; {MOST:,} may be"
        )
    if value.numel() == 0:
        return f"torch.zeros({literal(tuple(value.shape))}, {dtype})"
    return f"torch.tensor({_nested(value.tolist())}, {dtype})"


def _regular(value: Tensor) -> str | None:
    """A tensor that has a shorter name: all the same, or counted up."""
    if value.numel() < 4:
        return None
    flat, shape, dtype = value.flatten(), tuple(value.shape), f"dtype={value.dtype}"
    first = flat[0]
    if bool((flat == first).all()) and not (value.is_floating_point() and first == 0):
        return f"torch.full({literal(shape)}, {literal(first.item())}, {dtype})"
    if value.is_floating_point() and not flat.any() and not torch.signbit(flat).any():
        return f"torch.zeros({literal(shape)}, {dtype})"
    if value.dtype in (torch.int64, torch.int32, torch.float32):
        counted = torch.arange(flat.numel(), dtype=value.dtype)
        if flat.equal(counted):
            shaped = "" if value.ndim == 1 else f".view({', '.join(map(str, shape))})"
            return f"torch.arange({flat.numel()}, {dtype}){shaped}"
    return None


def _nested(value: Any) -> str:
    return f"[{', '.join(map(_nested, value))}]" if isinstance(value, list) else literal(value)


def writable(name: str) -> bool:
    """Whether ``self.name`` can be written for an attribute of this name."""
    ordinary = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
    return ordinary and not keyword.iskeyword(name) and not name.startswith("__")


def taken(name: str) -> bool:
    """Whether a module has something else under this name."""
    return name in _TAKEN


def class_name(text: str) -> str:
    """A name for a class."""
    name = re.sub(r"[^A-Za-z0-9_]", "", text).lstrip("_0123456789")
    reserved = {"Tensor", "F", "None", "True", "False", "OrderedDict", "Output"}
    return f"{name}_" if not name or name in reserved or keyword.iskeyword(name) else name
