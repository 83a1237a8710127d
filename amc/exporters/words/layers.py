"""Layers of PyTorch, and the words that make them again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from amc.exporters.words.literals import literal
from amc.exporters.words.unwritable import Unwritable

HARMLESS = {
    "__init__", "__module__", "__doc__", "__annotations__", "__qualname__", "__repr__",
    "__constants__", "__firstlineno__", "__static_attributes__", "__dict__", "__weakref__",
    "extra_repr", "reset_parameters", "__parameters__", "__orig_bases__",
}  # fmt: skip
"""What a subclass may define of its own and still compute what its parent does."""

NO_LAYERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict,
    nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip

SPREAD = ("kernel_size", "stride", "padding", "dilation", "output_padding", "normalized_shape")
"""Arguments for which one number stands for a tuple of the same ones."""


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Attributes:
        name: of the parameter.
        value: a number, or its text.
        default: left away if it is this; `inspect.Parameter.empty` if it is never.
        placed: whether it may stand without its name.
    """

    name: str
    value: int | str
    default: Any = inspect.Parameter.empty
    placed: bool = False


@dataclass(frozen=True)
class Layer:
    """How a layer of PyTorch is made: its class and arguments."""

    kind: str
    arguments: tuple[Argument, ...]


def layer_of(module: nn.Module) -> Layer | None:
    """How the layer is made again; None if that is not one of PyTorch as it comes."""
    kind = _kind(module)
    if kind is None or module._modules or _changed(module):
        return None
    try:
        values = _values(module, kind)
        fresh = _fresh(kind, values)
    except Exception:  # a constructor may refuse in any way what was set later
        return None
    if fresh is None or not _alike(module, fresh):
        return None
    try:
        return Layer(f"nn.{kind.__name__}", tuple(_arguments(kind, values)))
    except Unwritable:
        return None


@cache
def _kinds() -> frozenset[type]:
    found = (k for k in vars(nn).values() if inspect.isclass(k) and issubclass(k, nn.Module))
    return frozenset(
        k
        for k in found
        if k.__module__.startswith("torch.nn.modules.")
        and k is not nn.Module
        and not issubclass(k, NO_LAYERS)
        and not issubclass(k, nn.modules.lazy.LazyModuleMixin)
    )


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """The class of PyTorch that the module is one of, if nothing is computed in another way."""
    for one in type(module).__mro__:
        if one in _kinds():
            return one
        own = vars(one).keys() - HARMLESS
        if any(hasattr(parent, name) for name in own for parent in one.__mro__[1:]):
            return None
    return None


def _changed(module: nn.Module) -> bool:
    """Whether something is hung on the module, or it is not in eval mode."""
    hooked = any(
        getattr(module, name, None)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    )
    return hooked or module.training or "forward" in vars(module)


def _values(module: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    """Arguments of the constructor, as the module's attributes say them."""
    found: dict[str, Any] = {}
    for name, one in _parameters(kind).items():
        if name == "dtype":
            held = next((t for t in _own(module).values() if t.is_floating_point()), None)
            found[name] = None if held is None else held.dtype
        elif name == "bias" and not isinstance(vars(module).get("bias"), bool):
            found[name] = getattr(module, "bias", None) is not None
        elif hasattr(module, name):
            found[name] = getattr(module, name)
        elif one.default is inspect.Parameter.empty:
            raise Unwritable(name)
    return _shortened(found, kind)


def _shortened(found: dict[str, Any], kind: type[nn.Module]) -> dict[str, Any]:
    """One number in place of a tuple of the same ones, nothing in place of what follows."""
    for name in SPREAD:
        value = found.get(name)
        if isinstance(value, tuple) and len(set(value)) == 1:
            if name != "normalized_shape" or len(value) == 1:
                found[name] = value[0]
    if "stride" in found and found["stride"] == found.get("kernel_size"):
        if _parameters(kind)["stride"].default is None:
            found["stride"] = None
    return found


def _parameters(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """Parameters of the constructor that can be read off a layer."""
    named: Any = kind  # whose hash mypy does not find
    return _looked_up(named)


@cache
def _looked_up(kind: Any) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(kind)
    if kind in (nn.RNN, nn.LSTM, nn.GRU):  # theirs says nothing
        names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
                 "bidirectional", *(("proj_size",) if kind is nn.LSTM else ()),
                 *(("nonlinearity",) if kind is nn.RNN else ()), "dtype")  # fmt: skip
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                    "bidirectional": False, "proj_size": 0, "nonlinearity": "tanh",
                    "dtype": None}  # fmt: skip
        keyword = inspect.Parameter.KEYWORD_ONLY
        return {
            n: inspect.Parameter(n, keyword, default=defaults.get(n, inspect.Parameter.empty))
            for n in names
        }
    return {
        name: one
        for name, one in signature.parameters.items()
        if name not in ("self", "device") and not name.startswith("_")
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }


def _fresh(kind: Callable[..., nn.Module], values: dict[str, Any]) -> nn.Module | None:
    with torch.device("meta"):
        return kind(**values)


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {
        k: t for k, t in (*module._parameters.items(), *module._buffers.items()) if t is not None
    }


def _alike(module: nn.Module, fresh: nn.Module) -> bool:
    """Whether a layer that was made anew has the same tensors and the same simple attributes."""
    one, other = _own(module), _own(fresh)
    if one.keys() != other.keys() or module._parameters.keys() ^ fresh._parameters.keys():
        return False
    if module._non_persistent_buffers_set != fresh._non_persistent_buffers_set:
        return False
    if any(one[k].shape != other[k].shape or one[k].dtype != other[k].dtype for k in one):
        return False
    left = {"training", "init", "_is_full_backward_hook"}
    simple = (bool, int, float, str, tuple, type(None), torch.dtype)
    return all(
        name in vars(module) and vars(module)[name] == value
        for name, value in vars(fresh).items()
        if isinstance(value, simple) and name not in left
    )


def _arguments(kind: type[nn.Module], values: dict[str, Any]) -> list[Argument]:
    found = []
    for name, one in _parameters(kind).items():
        if name not in values:
            continue
        value, default = values[name], one.default
        if isinstance(value, Integral) and not isinstance(value, bool):
            value = int(value)
        if name == "dtype":
            if value in (None, torch.float32):
                continue
            default = None
        placed = one.default is inspect.Parameter.empty
        if type(value) is int:
            found.append(Argument(name, value, default, placed))
        elif placed or value != default:
            found.append(Argument(name, literal(value), placed=placed))
    return found
