"""The text of one forward: statements, with the names that a person would give.

A value that only the next statement reads is written inside of it. A name is used again for what
is made of the value that it stood for, once nothing else reads that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import Tensor
from torch.fx import Node

from amc.exporters.source.calls import is_number, operands
from amc.exporters.words.operators import in_parentheses, text_of
from amc.exporters.words.sizes import Missing, written_size

WIDEST = 84
"""Characters of a statement."""

Holder = Callable[[Node], str | None]
"""Text of a tensor that the network holds; None for what is computed."""


@dataclass(eq=False)
class Statement:
    """Something that is computed.

    Attributes:
        reads: values, as often as they are read.
        makes: values; None for one that nobody reads.
        write: the text, given the words of what it reads.
    """

    reads: list[Node]
    makes: list[Node | None]
    write: Callable[[Body], str]


@dataclass(eq=False)
class _Pending:
    """A value that is not written down yet, in the hope that it fits into the next statement."""

    node: Node
    text: str
    names: list[str]  # that are free with it


class Body:
    """Statements of one forward.

    Args:
        statements: in order.
        given: values that forward is given -> their texts.
        fixed: texts in `given` that are no names of their own.
        holder: of the tensors that the network holds.
        kept: values whose names are not used again.
    """

    def __init__(
        self,
        statements: Sequence[Statement],
        given: dict[Node, str],
        fixed: set[str],
        holder: Holder,
        kept: set[Node],
    ) -> None:
        self.names, self._holder, self._kept = dict(given), holder, kept
        self._statements, self._fixed = statements, fixed
        self._free: list[str] = []
        self._fresh = _names({*given.values(), *(text.partition("[")[0] for text in fixed)})
        self._pending: _Pending | None = None
        self._lines: list[str] = []
        self._near: list[Node] = []
        self._times: Counter[Node] = Counter()
        self._last: dict[Node, int] = {}

    def lines(self, returned: Sequence[Any], shape: Callable[[list[str]], str]) -> list[str]:
        """The whole text.

        Args:
            returned: nodes and other values.
            shape: makes the text of the result from the texts of these.

        Raises:
            Missing: a size is read off a tensor that has no name any more.
        """
        results = [x for x in returned if isinstance(x, Node) and not is_number(x)]
        end = Statement(results, [], lambda body: f"return {shape(body.every(returned))}")
        for place, one in enumerate((*self._statements, end)):
            for node in one.reads:
                self._times[node] += 1
                self._last[node] = place
        for place, one in enumerate((*self._statements, end)):
            self._add(place, one)
        return self._lines

    def every(self, values: Sequence[Any]) -> list[str]:
        """The texts of results."""
        return [
            (self.number(x, ()) if is_number(x) else self.value(x))
            if isinstance(x, Node)
            else repr(x)
            for x in values
        ]

    def value(self, node: Node) -> str:
        """A tensor, see `operators.Words`."""
        if (text := self._holder(node)) is not None:
            return text
        if self._pending is not None and node is self._pending.node:
            return self._pending.text
        return self.names[node]

    def number(self, node: Node, near: Sequence[Node]) -> str:
        """A size, see `operators.Words`."""
        order = [*near, *self._near, *reversed(self.names)]
        known = {x: self.names[x] for x in order if x in self.names}
        return written_size(node, known)

    def device(self) -> str:
        """The device of something at hand."""
        for node in (*self._near, *reversed(self.names)):
            text = self._holder(node) or self.names.get(node)
            if text is not None and isinstance(node.meta.get("val"), Tensor):
                return f"{text}.device"
        raise Missing(None)

    def _add(self, place: int, one: Statement) -> None:
        self._near = one.reads
        inside = self._pending
        if inside is not None and not (one.reads.count(inside.node) == 1 and self._single(inside)):
            self._settle()
            inside = None
        text = self._attempt(one)
        if inside is not None and (text is None or len(text) > WIDEST):
            self._settle()
            inside = None
            text = self._attempt(one)
        if text is None:
            one.write(self)  # raises what is missing
        assert text is not None
        freed = [] if inside is None else inside.names
        self._pending = None
        freed = [*freed, *self._dying(place, one)]
        self._assign(one, text, freed)

    def _single(self, inside: _Pending) -> bool:
        return self._times[inside.node] == 1 and inside.node not in self._kept

    def _attempt(self, one: Statement) -> str | None:
        try:
            return one.write(self)
        except Missing:
            return None

    def _dying(self, place: int, one: Statement) -> Iterator[str]:
        """Names whose values nothing reads after this statement."""
        for node in dict.fromkeys(one.reads):
            name = self.names.get(node)
            if name is None or name in self._fixed or node in self._kept:
                continue
            if self._last[node] == place:
                del self.names[node]
                yield name

    def _assign(self, one: Statement, text: str, freed: list[str]) -> None:
        if len(one.makes) == 1 and one.makes[0] is not None:
            self._pending = _Pending(one.makes[0], text, freed)
            return
        if not any(one.makes):
            self._free.extend(freed)
            self._lines.append(text)
            return
        targets = []
        for node in one.makes:
            if node is None:
                targets.append("_")
            else:
                self.names[node] = self._name(freed)
                targets.append(self.names[node])
        self._free.extend(freed)
        self._lines.append(f"{', '.join(targets)}{',' if len(targets) == 1 else ''} = {text}")

    def _settle(self) -> None:
        """Writes down what was pending."""
        pending = self._pending
        assert pending is not None
        self._pending = None
        name = self.names[pending.node] = self._name(pending.names)
        self._free.extend(pending.names)
        self._lines.append(f"{name} = {pending.text}")

    def _name(self, freed: list[str]) -> str:
        if freed:
            return freed.pop(0)
        if self._free:
            self._free.sort(key=lambda name: (len(name), name))
            return self._free.pop(0)
        return next(self._fresh)


def _names(used: set[str]) -> Iterator[str]:
    for number in count(1):
        for letter in "xyzuvw":
            name = letter if number == 1 else f"{letter}{number}"
            if name not in used:
                yield name


def operation(node: Node, plain: bool) -> Statement:
    """The statement of an operator; what is taken out of its result belongs to it."""
    taken = _taken(node)
    reads = operands(node)
    if taken is None:
        made = [node] if _read(node) else []
        return Statement(reads, list(made), lambda body: text_of(node, body, plain))
    if len(taken) > 1 and sum(one is not None for one in taken) == 1:
        place = next(i for i, one in enumerate(taken) if one is not None)

        def write(body: Body) -> str:
            return f"{in_parentheses(text_of(node, body, plain))}[{place}]"

        return Statement(reads, [taken[place]], write)
    if not any(taken):
        return Statement(reads, [], lambda body: text_of(node, body, plain))
    if len(taken) == 1:
        return Statement(
            reads, list(taken), lambda body: f"{in_parentheses(text_of(node, body, plain))}[0]"
        )
    return Statement(reads, list(taken), lambda body: text_of(node, body, plain))


def _read(node: Node) -> bool:
    return any(not str(user.target).startswith("aten._assert") for user in node.users)


def _taken(node: Node) -> list[Node | None] | None:
    """What is read of each part of a result of several; None where that is read as a whole."""
    value = node.meta.get("val")
    if not isinstance(value, tuple | list) or not all(map(is_part, node.users)):
        return None
    parts: list[Node | None] = [None] * len(value)
    for user in node.users:
        place: Any = user.args[1]
        if parts[place] is not None:
            return None
        if user.users:
            parts[place] = user
    return parts


def is_part(node: Node) -> bool:
    """Whether a node takes one part out of a result of several."""
    target = node.target
    return getattr(target, "__name__", "") == "getitem" and type(node.args[1]) is int
