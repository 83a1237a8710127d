"""Numbers of channels that a module holds as plain attributes: found, read, and made to follow.

Code such as ``x.split((self.c, self.c), 1)`` needs ``self.c`` to shrink with its channels. Such an
attribute is handled like a tensor of ``self.c`` slices, under a name that starts with ``@``:
``@blocks.0.c``, or ``@blocks.0.sizes[1]`` for an entry of a tuple or list.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

MARK = "@"


def holders(module: nn.Module, path: str, value: int) -> Iterator[str]:
    """Names of the module's attributes, and entries of them, that hold this number."""
    for entries in names(module, path).values():
        yield from (name for name, held in entries if name and held == value)


def names(module: nn.Module, path: str) -> dict[str, list[tuple[str, Any]]]:
    """Attributes that hold numbers -> (name, value) of each entry; no name for what is none."""
    prefix = f"{MARK}{path}." if path else MARK
    found: dict[str, list[tuple[str, Any]]] = {}
    for key, held in vars(module).items():
        if _is_number(held):
            found[key] = [(f"{prefix}{key}", held)]
        elif type(held) in (tuple, list) and any(map(_is_number, held)):
            found[key] = [
                (f"{prefix}{key}[{i}]" if _is_number(v) else "", v) for i, v in enumerate(held)
            ]
    return found


def is_attribute(name: str) -> bool:
    """Whether a name stands for an attribute and not for a tensor."""
    return name.startswith(MARK)


def read(model: nn.Module, name: str) -> int | None:
    """The number that the attribute holds; None when there is no such attribute."""
    module, key, entry = _place(model, name)
    held = vars(module).get(key) if module is not None else None
    if entry is not None:
        held = held[entry] if isinstance(held, tuple | list) and entry < len(held) else None
    return held if isinstance(held, int) and _is_number(held) else None


def write(model: nn.Module, name: str, value: int) -> None:
    """Changes the attribute, in place."""
    module, key, entry = _place(model, name)
    if entry is None:
        setattr(module, key, value)
        return
    held = vars(module)[key]
    entries = [value if i == entry else v for i, v in enumerate(held)]
    setattr(module, key, type(held)(entries))


def _place(model: nn.Module, name: str) -> tuple[nn.Module | None, str, int | None]:
    found = re.fullmatch(r"@(?:(.*)\.)?([^.\[\]]+)(?:\[(\d+)\])?", name)
    if found is None:
        return None, "", None
    path, key, entry = found.groups()
    try:
        module = model.get_submodule(path or "")
    except AttributeError:
        module = None
    return module, key, None if entry is None else int(entry)


def _is_number(held: object) -> bool:
    return isinstance(held, int) and not isinstance(held, bool)
