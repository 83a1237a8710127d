"""How modules and tensors of a network are reached, and which kind of container holds them."""

from __future__ import annotations

from enum import Enum

from torch import nn

from amc.exporters.words.literals import taken, writable
from amc.exporters.words.unwritable import Unwritable


class Form(Enum):
    """How the children of a module are held."""

    NAMED = "nn.Module"
    SEQUENCE = "nn.Sequential"
    LIST = "nn.ModuleList"
    DICT = "nn.ModuleDict"


def form(module: nn.Module) -> Form:
    """How the children of a module are held; in lists they are known by their numbers."""
    if isinstance(module, nn.Sequential):
        return Form.SEQUENCE
    if isinstance(module, nn.ModuleList) and _counted(module):
        return Form.LIST
    if isinstance(module, nn.ModuleDict):
        return Form.DICT
    return Form.NAMED


def computes_nothing(module: nn.Module) -> bool:
    """Whether it is a container of PyTorch, without a forward or anything of its own."""
    plain = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    held = next((kind for kind in plain if isinstance(module, kind)), None)
    if held is None or form(module) is Form.NAMED:
        return False
    own = any(t is not None for t in (*module._parameters.values(), *module._buffers.values()))
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return not own and not hooked and type(module).forward is held.forward


def reached(root: nn.Module, start: str, path: str, attribute: str | None = None) -> str:
    """The words by which code in one module reaches another one, or a tensor of that.

    Args:
        root: the network.
        start: path of the module with the code.
        path: of the module that is reached, inside of that.
        attribute: the name of a tensor there.
    """
    module = root.get_submodule(start) if start else root
    text = "self"
    for name in filter(None, path.removeprefix(start).split(".")):
        text = _child(module, text, name)
        module = module._modules[name]  # type: ignore[assignment]
    if attribute is None:
        return text
    if isinstance(module, nn.ParameterList) and _counted_parameters(module):
        return f"{text}[{attribute}]"
    return named(text, attribute)


def named(text: str, name: str) -> str:
    """The words for an attribute of what the text stands for."""
    if taken(name):
        raise Unwritable(f"a part of the network is called {name!r}, as a part of every module is")
    return f"{text}.{name}" if writable(name) else f"getattr({text}, {name!r})"


def inside(path: str, start: str) -> bool:
    """Whether a path is that of a module or of something in it."""
    return not start or path == start or path.startswith(f"{start}.")


def _child(module: nn.Module, text: str, name: str) -> str:
    kind = form(module)
    if kind in (Form.SEQUENCE, Form.LIST):
        return f"{text}[{list(module._modules).index(name)}]"
    if kind is Form.DICT:
        return f"{text}[{name!r}]"
    return named(text, name)


def _counted(module: nn.Module) -> bool:
    return list(module._modules) == [str(i) for i in range(len(module._modules))]


def _counted_parameters(module: nn.ParameterList) -> bool:
    return list(module._parameters) == [str(i) for i in range(len(module))]
