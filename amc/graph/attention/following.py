"""Modules whose sizes follow when heads go, in place of those whose sizes do not.

The class of such a module is made from the user's: it is a sub-class of the same name, in which
functions are as `rewrite` leaves them. As long as nothing is cut it computes the same.
"""

import copyreg
from functools import cache
from types import FunctionType
from typing import Any

from torch import nn

from amc.graph.attention.rewrite import is_attention, rewritten
from amc.graph.attention.size_edits import WHOLE
from amc.runtime.errors import AmcError


class Following:
    """What the classes have that are made here."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and files know the user's class only."""
        found = super().__reduce_ex__(protocol)
        if isinstance(found, tuple) and found[0] is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _made, (_users(type(self)),), *found[2:]
        return found


def follow_sizes(module: nn.Module) -> bool:
    """Makes the sizes of a module follow, in place, if they do not and can; whether it did.

    Modules inside are left alone.
    """
    kind: Any = type(module)
    if issubclass(kind, Following) or "forward" in vars(module):
        return False
    made, numbers = _following(kind)
    held = {name: vars(module).get(name) for name in numbers}
    if made is None or any(type(value) is not int for value in held.values()):
        return False
    vars(module)[WHOLE] = held
    module.__class__ = made
    return True


def can_follow(module: nn.Module) -> bool:
    """Whether there is a class in which the sizes of the module follow."""
    kind: Any = type(module)
    return not issubclass(kind, Following) and _following(kind)[0] is not None


@cache
def _following(kind: Any) -> tuple[type | None, frozenset[str]]:
    """The class in which sizes follow, and attributes whose numbers before a cut it reads."""
    nothing = None, frozenset[str]()
    if kind.__module__.startswith("torch.") or "__slots__" in vars(kind):
        return nothing
    if any("__init_subclass__" in vars(one) for one in kind.__mro__[:-1]):
        return nothing  # somebody keeps account of sub-classes
    own: dict[str, FunctionType] = {}
    for one in reversed(kind.__mro__):
        if not one.__module__.startswith(("torch.", "builtins")):
            own |= {name: f for name, f in vars(one).items() if isinstance(f, FunctionType)}
    if "forward" not in own or not any(map(is_attention, own.values())):
        return nothing
    found = {name: new for name, f in own.items() if (new := rewritten(f)) is not None}
    if not found:
        return nothing
    body = {name: new.function for name, new in found.items()}
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    try:
        made = type(kind)(kind.__name__, (kind, Following), {**body, **names})
    except Exception:  # somebody's metaclass may refuse in any way
        return nothing
    return made, frozenset[str]().union(*(new.numbers for new in found.values()))


def _users(kind: type) -> type:
    """The class that a class was made from."""
    return next(one for one in kind.__mro__ if not issubclass(one, Following))


def _made(kind: Any) -> Any:
    """A module of a class whose sizes follow, empty: what copies and files begin with."""
    made: Any = _following(kind)[0]
    if made is None:
        raise AmcError(f"{kind.__name__}: its source has changed since the network was pruned")
    return made.__new__(made)
