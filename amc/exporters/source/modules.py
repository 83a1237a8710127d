"""The constructors of a network's modules, and the classes that they need."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from amc.exporters.source.blueprints import Blueprint, Design, Line, New, Slot, of_layer, rendered
from amc.exporters.source.calls import Program
from amc.exporters.source.forwards import Forwards
from amc.exporters.words.layers import Argument
from amc.exporters.words.literals import class_name, literal, taken, tensor_literal, writable
from amc.exporters.words.places import Form, computes_nothing, form, inside, reached
from amc.exporters.words.unwritable import Unwritable
from amc.graph.shrink import tensors


class Modules:
    """Classes of a network, those that others are made of first.

    Args:
        program: of the network.
        forwards: of its modules.
    """

    def __init__(self, program: Program, forwards: Forwards) -> None:
        self._program, self._forwards = program, forwards
        self.designs: list[Design] = []
        self._numbers: dict[Blueprint, int] = {}
        self._aliases = dict(self._shared())
        self.top = list(self._lines(""))

    def classes(self) -> Iterator[list[str]]:
        """The text of every class but the network's."""
        for design in self.designs:
            blueprint = design.blueprint
            parameters = "".join(f", {name}: int" for name in design.parameters())
            yield [
                f"class {design.name}({blueprint.base}):",
                *indented(self.constructor(design.lines, parameters, iter(design.texts()))),
                *(
                    ("", *indented(function("forward", blueprint.given, blueprint.forward)))
                    if blueprint.given is not None
                    else ()
                ),
            ]

    def constructor(
        self, lines: Sequence[Line], parameters: str = "", texts: Iterator[str] | None = None
    ) -> list[str]:
        """The text of ``__init__``; without texts, numbers stand for themselves."""
        if texts is None:
            texts = iter([str(slot.value) for slot in _slots(lines)])
        found = [f"def __init__(self{parameters}) -> None:"]
        for line in lines:
            made = "" if line.made is None else rendered(line.made, texts, self.designs, 4)
            found.extend(f"    {line.before}{made}{line.behind}".split("\n"))
        return found

    def base(self, path: str) -> str:
        """What the class of a module is derived from."""
        return form(self._program.modules[path]).value

    def _lines(self, path: str) -> Iterator[Line]:
        """The constructor of a module of a class of ours."""
        module = self._program.modules[path]
        if form(module) is Form.NAMED:
            yield Line("super().__init__()")
        else:
            made = self._container(path, "super().__init__")
            yield Line("", made) if made.parts else Line("super().__init__()")
        yield from self._held(path, module)
        if form(module) is Form.NAMED:
            for name in module._modules:
                child = _joined(path, name)
                if child in self._aliases or not self._wanted(child):
                    continue
                made = self._new(child, _label(name))
                yield _assigned(name, made)
        for other, first in self._aliases.items():
            if self._owner(other, first) == path:
                target, source = self._words(path, other), self._words(path, first)
                if target.startswith("getattr("):
                    raise Unwritable(f"{other} is {first} under a name that cannot be written")
                yield Line(f"{target} = {source}")

    def _words(self, start: str, name: str) -> str:
        """How a module, or a tensor, is reached."""
        if name in self._program.modules:
            return reached(self._program.model, start, name)
        return reached(self._program.model, start, *name.rpartition(".")[::2])

    def _held(self, path: str, module: nn.Module) -> Iterator[Line]:
        """Parameters, buffers and constants."""
        persistent = module.state_dict().keys()
        for name, tensor in module._parameters.items():
            if tensor is None or _joined(path, name) in self._aliases:
                continue
            made = _parameter(tensor, _label(name))
            if writable(name) and not taken(name):
                yield Line(f"self.{name} = ", made)
            else:
                yield Line(f"self.register_parameter({name!r}, ", made, ")")
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            if name in persistent:
                zeros = _zeros(buffer, _label(name))
                yield Line(f"self.register_buffer({name!r}, ", zeros, ")")
            elif self._read(_joined(path, name)):
                yield _constant(name, buffer)
        for place, value in self._program.constants.items():
            owner, name = place.rpartition(".")[::2]
            if owner == path:
                yield _constant(name, value)

    def _read(self, name: str) -> bool:
        """Whether the program reads a tensor of the network."""
        return any(name in names and node.users for node, names in self._program.held.items())

    def _wanted(self, path: str) -> bool:
        """Whether a module is called, or holds anything."""
        module = self._program.modules[path]
        paths = [
            self._program.first_path(_joined(path, n)) for n, _ in module.named_modules() if n
        ]
        called = any(p in self._forwards.called for p in (path, *paths))
        constants = any(
            inside(place.rpartition(".")[0], path) for place in self._program.constants
        )
        return (
            called
            or constants
            or bool(module.state_dict())
            or any(self._read(_joined(path, name)) for name, _ in module.named_buffers())
        )

    def _new(self, path: str, label: str) -> New:
        """What makes a module."""
        module = self._program.modules[path]
        constants = any(p.rpartition(".")[0] == path for p in self._program.constants)
        if path in self._aliases or not self._wanted(path):
            return New("nn.Identity", label)
        if path in self._forwards.layers and not constants:
            return of_layer(self._forwards.layers[path], label)
        if computes_nothing(module) and not constants:
            return self._container(path, form(module).value, label)
        if isinstance(module, nn.ParameterList | nn.ParameterDict):
            return self._parameters(path, module, label)
        return self._class(path, module, label)

    def _container(self, path: str, kind: str, label: str = "") -> New:
        module = self._program.modules[path]
        names = list(module._modules)
        parts = [self._new(_joined(path, n), f"{label}_{_label(n)}".lstrip("_")) for n in names]
        held = form(module)
        if held is Form.DICT:
            keys = [f"{n!r}: " for n in names]
            opening, closing = "{", "}"
        elif held is Form.LIST:
            keys, opening, closing = [""] * len(names), "[", "]"
        elif names == [str(i) for i in range(len(names))]:
            keys, opening, closing = [""] * len(names), "", ""
        else:
            keys = [f"{n!r}: " for n in names]
            opening, closing = "OrderedDict({", "})"
        pairs = tuple(zip(keys, parts, strict=True))
        return New(kind, label, parts=pairs, opening=opening, closing=closing)

    def _parameters(self, path: str, module: nn.Module, label: str) -> New:
        """A list or dictionary of parameters."""
        if module._modules or module._buffers:
            raise Unwritable(
                f"{path} is a {type(module).__name__} that holds more than parameters"
            )
        parts = []
        named = isinstance(module, nn.ParameterDict)
        for name, one in module._parameters.items():
            if one is None or _joined(path, name) in self._aliases:
                raise Unwritable(f"{path} holds a parameter that is held elsewhere as well")
            key = f"{name!r}: " if named else ""
            parts.append((key, _parameter(one, f"{label}_{_label(name)}")))
        kind = "nn.ParameterDict" if named else "nn.ParameterList"
        opening, closing = ("{", "}") if named else ("[", "]")
        return New(kind, label, parts=tuple(parts), opening=opening, closing=closing)

    def _class(self, path: str, module: nn.Module, label: str) -> New:
        """A module of a class of ours; of an earlier one, if only numbers differ."""
        lines = list(self._lines(path))  # first, as it adds classes
        forward = self._forwards.of.get(path)
        blueprint = Blueprint(
            class_name(type(module).__name__),
            self.base(path),
            tuple(line.shape() for line in lines),
            None if forward is None else forward.given,
            () if forward is None else forward.lines,
        )
        slots = tuple(_slots(lines))
        if blueprint not in self._numbers:
            self._numbers[blueprint] = len(self.designs)
            labels = [slot.label for slot in slots]
            self.designs.append(Design(self.new_name(blueprint.name), blueprint, lines, labels))
        number = self._numbers[blueprint]
        self.designs[number].values.append(tuple(slot.value for slot in slots))
        return New(number, label, slots=slots)

    def new_name(self, wanted: str) -> str:
        """A name that no other class has."""
        used = {design.name for design in self.designs}
        name, number = wanted, 2
        while name in used:
            name, number = f"{wanted}{number}", number + 1
        return name

    def _shared(self) -> Iterator[tuple[str, str]]:
        """Modules and tensors that hang under several names: (another name, the first)."""
        program = self._program
        for path in program.modules:
            owner, _, _ = path.rpartition(".")
            if program.first_path(path) != path and program.first_path(owner) == owner:
                yield path, program.first_path(path)
        seen: dict[int, str] = {}
        for name, tensor in tensors(program.model).items():
            owner = name.rpartition(".")[0]
            if program.first_path(owner) != owner:
                continue
            first = seen.setdefault(id(tensor), name)
            if first != name:
                yield name, first

    def _owner(self, one: str, other: str) -> str:
        """The innermost module of a class of ours that holds both."""
        path = one.rpartition(".")[0]
        while path:
            if inside(other, path) and other != path and self._is_class(path):
                return path
            path = path.rpartition(".")[0]
        return ""

    def _is_class(self, path: str) -> bool:
        module = self._program.modules[path]
        plain = path in self._forwards.layers or computes_nothing(module)
        return not plain and self._program.first_path(path) == path


def function(name: str, given: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The text of a method."""
    words = "".join(f", {one}: Tensor" for one in given)
    return [f"def {name}(self{words}):", *indented(lines)]


def indented(lines: Sequence[str]) -> list[str]:
    """Lines, one step to the right."""
    return [f"    {line}" if line else "" for line in lines]


def _assigned(name: str, made: New) -> Line:
    if taken(name):
        raise Unwritable(f"a part of the network is called {name!r}, as a part of every module is")
    if writable(name):
        return Line(f"self.{name} = ", made)
    return Line(f"self.add_module({name!r}, ", made, ")")


def _parameter(tensor: Tensor, label: str) -> New:
    frozen = () if tensor.requires_grad else (Argument("requires_grad", "False"),)
    return New("nn.Parameter", label, frozen, (("", _zeros(tensor, label)),))


def _zeros(tensor: Tensor, label: str) -> New:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise Unwritable(f"a tensor of layout {tensor.layout} cannot be written down")
    sizes: tuple[Argument, ...] = tuple(Argument("", n) for n in tensor.shape)
    if not sizes:
        sizes = (Argument("", "()"),)
    if tensor.dtype != torch.float32:
        sizes = (*sizes, Argument("dtype", literal(tensor.dtype)))
    return New("torch.zeros", label, sizes)


def _constant(name: str, value: Tensor) -> Line:
    return Line(f"self.register_buffer({name!r}, {tensor_literal(value)}, persistent=False)")


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "", name).strip("_") or "part"


def _slots(lines: Sequence[Line]) -> list[Slot]:
    return [slot for line in lines if line.made is not None for slot in line.made.numbers()]
