"""Constructors of modules as data: what is made with which numbers, before it is text.

Modules of the same class that differ in nothing but numbers (a block of 16 channels and one of
11) become one class. Numbers that are the same in all of them stand in it; of the others, those
that are always equal are one parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from amc.exporters.words.layers import Argument, Layer

WIDTH = 96
"""Columns of a line."""

SHORT = {
    "in_channels": "in", "out_channels": "out", "in_features": "in", "out_features": "out",
    "num_features": "features",
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """A number in a constructor."""

    label: str
    value: int


@dataclass(frozen=True)
class New:
    """Something that is made: a layer, a container of others, or a module of a class of ours.

    Attributes:
        kind: ``nn.Conv2d``; of a class of ours, its number.
        label: of its place in the module that holds it.
        arguments: of a layer.
        parts: of a container: (key, module).
        slots: of a class of ours: all numbers in its constructor.
        opening, closing: what stands around the parts.
    """

    kind: str | int
    label: str
    arguments: tuple[Argument, ...] = ()
    parts: tuple[tuple[str, New], ...] = ()
    slots: tuple[Slot, ...] = ()
    opening: str = ""
    closing: str = ""

    def numbers(self) -> Iterator[Slot]:
        """All numbers, in the order of the text."""
        if isinstance(self.kind, int):
            for slot in self.slots:
                yield Slot(f"{self.label}_{slot.label}", slot.value)
        for one in self.arguments:
            if isinstance(one.value, int):
                short = SHORT.get(one.name, one.name) or "size"
                yield Slot(f"{self.label}_{short}", one.value)
        for _, part in self.parts:
            yield from part.numbers()

    def shape(self) -> object:
        """Everything but the numbers."""
        named = tuple(
            (one.name, "" if isinstance(one.value, int) else one.value) for one in self.arguments
        )
        inner = tuple((key, part.shape()) for key, part in self.parts)
        return self.kind, named, inner, self.opening


def of_layer(layer: Layer, label: str) -> New:
    """A layer of PyTorch."""
    return New(layer.kind, label, layer.arguments)


@dataclass(frozen=True)
class Line:
    """A line of a constructor: something before it, what is made, something behind it."""

    before: str
    made: New | None = None
    behind: str = ""

    def shape(self) -> object:
        """Everything but the numbers."""
        return self.before, self.made.shape() if self.made else None, self.behind


@dataclass(frozen=True)
class Blueprint:
    """A class without its numbers, hashable: equal ones are one class.

    Attributes:
        name: that its class had.
        base: what it is derived from.
        shape: of its constructor.
        given: what its forward takes; None if it has none.
        forward: its statements.
        made: results of the forward.
    """

    name: str
    base: str
    shape: object
    given: tuple[str, ...] | None
    forward: tuple[str, ...]


@dataclass
class Design:
    """A class that is going to be written.

    Attributes:
        name: of the class.
        blueprint: what it is made from.
        lines: of its constructor, with the numbers of the first module.
        values: numbers of all modules of the class, [module][slot].
        labels: of the slots.
    """

    name: str
    blueprint: Blueprint
    lines: Sequence[Line]
    labels: list[str]
    values: list[tuple[int, ...]] = field(default_factory=list)

    def parameters(self) -> dict[str, list[int]]:
        """Parameters of the constructor, and the slots that each one fills."""
        columns = list(zip(*self.values, strict=True))
        same: dict[tuple[int, ...], list[int]] = {}
        for place, column in enumerate(columns):
            if len(set(column)) > 1:
                same.setdefault(column, []).append(place)
        found: dict[str, list[int]] = {}
        for places in same.values():
            name = base = _parameter_name(self.labels[places[0]])
            number = 2
            while name in found or name == "self":
                name, number = f"{base}_{number}", number + 1
            found[name] = places
        return found

    def texts(self) -> list[str]:
        """What stands in every slot: a number, or the name of a parameter."""
        texts = [str(n) for n in self.values[0]]
        for name, places in self.parameters().items():
            for place in places:
                texts[place] = name
        return texts


def _parameter_name(label: str) -> str:
    name = label.strip("_")
    return f"layer_{name}" if name[:1].isdigit() else name


def rendered(made: New, texts: Iterator[str], designs: Sequence[Design], indent: int) -> str:
    """The text that makes it.

    Args:
        made: what is made.
        texts: of its numbers, in order; as many as there are are taken.
        designs: classes of ours.
        indent: columns before the text; it is broken into lines where it does not fit.
    """
    if isinstance(made.kind, int):
        design = designs[made.kind]
        given = [next(texts) for _ in made.slots]
        words = [given[places[0]] for places in design.parameters().values()]
        return f"{design.name}({', '.join(words)})"
    words = list(_arguments(made, texts))  # numbers of the arguments come first
    inner = [
        key + rendered(part, texts, designs, indent + 4 + len(key)) for key, part in made.parts
    ]
    opening = f"{made.kind}({made.opening}"
    closing = f"{made.closing})"
    text = f"{opening}{', '.join((*inner, *words))}{closing}"
    if not inner or (len(text) + indent <= WIDTH and "\n" not in text and len(inner) < 4):
        return text
    space = "\n" + " " * (indent + 4)
    return f"{opening}{space}{f',{space}'.join(inner)},\n{' ' * indent}{closing}"


POSITIONAL = 3
"""Arguments without their names, at most: channels and the size of the kernel."""


def _arguments(made: New, texts: Iterator[str]) -> Iterator[str]:
    row = True
    for place, one in enumerate(made.arguments):
        text = next(texts) if isinstance(one.value, int) else one.value
        if isinstance(one.value, int) and text == repr(one.default):
            row = False
            continue
        row = row and one.placed and place < POSITIONAL
        yield str(text) if row or not one.name else f"{one.name}={text}"
