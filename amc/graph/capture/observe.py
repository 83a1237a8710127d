"""What forward does with numbers: where it uses its attributes, and which sizes it compares.

The network is executed once with integers that remember where they came from: sizes of tensors,
and what modules hold as plain attributes. Arithmetic passes that on.
"""

import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from amc.graph.attributes import names
from amc.graph.capture.export import HERE, LIBRARY, Inputs
from amc.graph.shrink import duplicate

ALIKE = (
    frozenset("view reshape _unsafe_view unflatten".split()),
    frozenset("chunk split split_with_sizes tensor_split unsafe_chunk hsplit vsplit".split()),
    frozenset("slice narrow __getitem__ __setitem__".split()),
    frozenset("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()),
)
"""Names of ATen operators, and of the functions of torch that become one of them."""

SIZES = ("size", "numel", "nelement")
"""Methods whose results are sizes; ``shape`` is known by its type."""


Place = tuple[int, int]
"""A dimension of a view, and how many it has."""


@dataclass(frozen=True)
class Comparison:
    """Two numbers that the user's code compared; at least one came from a tensor's size.

    Attributes:
        operator: how, a function's name in `operator`; ``eq`` for its opposite as well.
        left, right: the numbers.
        computed: whether a side is the result of arithmetic,
        bent: of such that does not grow with every size.
    """

    operator: str
    left: int
    right: int
    computed: bool = False
    bent: bool = False

    @property
    def outcome(self) -> bool:
        """Which way it goes."""
        return bool(getattr(operator, self.operator)(self.left, self.right))


@dataclass
class Observed:
    """What one execution did.

    Attributes:
        attributes: of modules, that were watched.
        uses: attribute -> names of the functions of torch that were given it.
        places: attribute -> where it stood alone in the shape of a view, and how long that was.
        read: attributes that were read.
        comparisons: line of code -> per execution of its function, what it compared.
    """

    attributes: set[str] = field(default_factory=set)
    uses: dict[str, set[str]] = field(default_factory=dict)
    places: dict[str, set[Place]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    comparisons: dict[str, list[list[Comparison]]] = field(default_factory=dict)

    def meant(self, names: Sequence[str], target: str, place: Place | None = None) -> list[str]:
        """Those of some attributes that forward gives to this ATen operator, at this place.

        If none is known to be, those that it reads without anything known to be given them.
        """
        kinds = next((kinds for kinds in ALIKE if target in kinds), None)
        if kinds is None:
            return list(names)
        others = [n for n in names if n not in self.attributes]
        given = [n for n in names if self.uses.get(n, set()) & kinds]
        if place is not None:
            here = [n for n in given if place in self.places.get(n, ())]
            given = here or [n for n in given if n not in self.places]
        lost = [n for n in names if n in self.read and n not in self.uses]
        return others + (given or lost)


def observe(model: nn.Module, inputs: Inputs) -> Observed:
    """Executes a copy of the network; nothing is observed of one that does not bear it."""
    copy, observed = duplicate(model), Observed()
    watch, own = _Watch(observed), {}
    try:
        for path, module in copy.named_modules():
            if not type(module).__module__.startswith("torch."):
                own[module] = watch.mark(module, path)
        read = {id(module): found for module, found in own.items()}
        with _listening({type(m) for m in own if read[id(m)]}, read, observed.read), watch:
            inputs.run(copy)
    except Exception:  # an integer that is not quite one may break the user's forward
        return Observed()
    finally:
        watch.close()
    return observed


class _Number(int):
    """An integer with a memory; copies and files hold plain ones."""

    watch: "_Watch"
    origins: frozenset[str]
    size: bool
    computed: bool
    bent: bool

    def __reduce__(self) -> Any:
        return int, (int(self),)

    __hash__ = int.__hash__


class _Watch(TorchFunctionMode):
    """Marks sizes while it is on, and notes what becomes of marked numbers."""

    def __init__(self, observed: Observed) -> None:
        super().__init__()
        self._observed, self._open = observed, True
        self._frames: dict[str, FrameType] = {}

    def close(self) -> None:
        """Nothing is noted any more, whoever still holds a number."""
        self._open = False
        self._frames.clear()

    def mark(self, module: nn.Module, path: str) -> dict[str, list[str]]:
        """Marks the numbers that a module holds, in place; attribute -> their names."""
        found = names(module, path)
        for key, entries in found.items():
            held = vars(module)[key]
            marked = [self.number(value, {name}) if name else value for name, value in entries]
            vars(module)[key] = marked[0] if isinstance(held, int) else type(held)(marked)
        own = {key: [name for name, _ in entries if name] for key, entries in found.items()}
        self._observed.attributes.update(*own.values())
        return own

    def number(self, value: int, origins: Any = (), size: bool = False) -> _Number:
        """A marked number."""
        made = _Number(value)
        made.watch, made.origins, made.size = self, frozenset(origins), size
        made.computed = made.bent = False
        return made

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for given in _numbers((args, kwargs)):
            for origin in given.origins:
                self._observed.uses.setdefault(origin, set()).add(func.__name__)
        for place, given in _shaping(func.__name__, args):
            for origin in given.origins if not given.computed else ():
                self._observed.places.setdefault(origin, set()).add(place)
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Size):
            return torch.Size([self.number(n, size=True) for n in out])
        if type(out) is int and func.__name__ in SIZES:
            return self.number(out, size=True)
        return out

    def compared(self, how: str, one: _Number, other: Any) -> None:
        """Notes a comparison in the user's code."""
        frame = sys._getframe(2)
        file = frame.f_code.co_filename
        both = [x for x in (one, other) if isinstance(x, _Number)]
        if not (self._open and any(x.size for x in both) and isinstance(other, int)):
            return
        if file.startswith((LIBRARY, HERE, "<")):
            return
        where = f"{Path(file).name}:{frame.f_lineno}"
        calls = self._observed.comparisons.setdefault(where, [])
        if self._frames.get(where) is not frame:
            self._frames[where] = frame
            calls.append([])
        computed, bent = any(x.computed for x in both), any(x.bent for x in both)
        calls[-1].append(Comparison(how, int(one), int(other), computed, bent))


def _shaping(name: str, args: Sequence[Any]) -> Iterator[tuple[Place, _Number]]:
    """The marked numbers among the sizes of a view, each with its place."""
    if name not in ("view", "reshape", "unflatten") or len(args) < 2:
        return
    start, ndim = 0, 0
    sizes = args[1:]
    if name == "unflatten":
        if len(args) != 3 or not isinstance(args[1], int):
            return
        ndim = args[0].ndim - 1
        start, sizes = int(args[1]) % args[0].ndim, args[2:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    for offset, size in enumerate(sizes):
        if isinstance(size, _Number):
            yield (start + offset, ndim + len(sizes)), size


def _numbers(values: Any) -> Iterator[_Number]:
    for value in tree_leaves(values):
        if isinstance(value, slice):
            yield from _numbers((value.start, value.stop, value.step))
        elif isinstance(value, _Number):
            yield value


@contextmanager
def _listening(
    kinds: Iterable[Any], watched: Mapping[int, Mapping[str, list[str]]], read: set[str]
) -> Iterator[None]:
    """Notes which of the watched attributes are read, id of the module -> attribute -> names.

    Classes are changed while it lasts: a sub-class might be registered somewhere by the user's.
    """

    def heard(kind: Any) -> Any:
        plain = kind.__getattribute__

        def method(self: Any, key: str) -> Any:
            read.update(watched.get(id(self), {}).get(key, ()))
            return plain(self, key)

        return method

    own = {kind: vars(kind).get("__getattribute__") for kind in kinds}
    try:
        for kind in own:
            kind.__getattribute__ = heard(kind)
        yield
    finally:
        for kind, method in own.items():
            if method is not None:
                kind.__getattribute__ = method
            elif "__getattribute__" in vars(kind):
                del kind.__getattribute__


def _computing(name: str, bends: bool) -> Any:
    plain = getattr(int, name)

    def method(self: _Number, *others: Any) -> Any:
        out = plain(self, *others)
        if type(out) is not int:
            return out
        sources = [self, *(o for o in others if isinstance(o, _Number))]
        origins = frozenset[str]().union(*(s.origins for s in sources))
        made = self.watch.number(out, origins, any(s.size for s in sources))
        divided = name == "__floordiv__" and len(sources) > 1
        made.computed, made.bent = True, bends or divided or any(s.bent for s in sources)
        return made

    return method


def _comparing(name: str, how: str) -> Any:
    plain = getattr(int, name)

    def method(self: _Number, other: Any) -> Any:
        self.watch.compared(how, self, other)
        return plain(self, other)

    return method


def _truth(self: _Number) -> bool:
    if self.computed:
        self.watch.compared("eq", self, 0)
    return int.__bool__(self)


for _name in ("add", "radd", "mul", "rmul", "pow", "floordiv"):
    setattr(_Number, f"__{_name}__", _computing(f"__{_name}__", bends=False))
for _name in ("sub", "rsub", "mod", "rmod", "rpow", "rfloordiv", "neg", "abs"):
    setattr(_Number, f"__{_name}__", _computing(f"__{_name}__", bends=True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(_Number, f"__{_name}__", _comparing(f"__{_name}__", _name.replace("ne", "eq")))
setattr(_Number, "__bool__", _truth)  # noqa: B010  # a method that int does not let one override
