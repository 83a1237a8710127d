"""Which modules of a network get a forward, and what is in it.

The program is one list of operators. Where a stretch of it is one call of a layer of PyTorch, the
layer is called; where it is the call of a module with a forward of its own, that module gets one,
and is called. A module whose calls do different things is written out where it is called.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Node

from amc.exporters.source.calls import Call, Program, boundary
from amc.exporters.source.forward import Body, Statement, is_part, operation
from amc.exporters.words.layers import Layer, layer_of
from amc.exporters.words.places import Form, computes_nothing, form, inside, reached
from amc.exporters.words.sizes import Missing
from amc.exporters.words.unwritable import Unwritable


@dataclass(frozen=True)
class Forward:
    """A forward.

    Attributes:
        given: names of what it takes, behind self.
        lines: its statements.
        made: how many results it has.
    """

    given: tuple[str, ...]
    lines: tuple[str, ...]
    made: int


class Forwards:
    """Forwards of all modules that have one.

    Attributes:
        of: path -> its forward; the network itself is not among them.
        layers: path -> how a layer of PyTorch is made.
        called: paths of modules that are called, layers and sequences too.

    Args:
        program: of the network.
        plain: whether operators are written as a person would.
    """

    def __init__(self, program: Program, plain: bool = True) -> None:
        self.program, self._plain = program, plain
        self.layers: dict[str, Layer] = {}
        for path, module in program.modules.items():
            if program.first_path(path) == path and path:
                if (layer := layer_of(module)) is not None:
                    self.layers[path] = layer
        self._inlined = set(program.torn)
        self._calls = list(program.root.calls())
        self._edges = {id(call): boundary(call.nodes()) for call in self._calls}
        self._write()

    def _write(self) -> None:
        """Writes all forwards, until the calls of every module agree."""
        while True:
            self._how: dict[int, str] = {}
            self._reads: dict[int, list[Node]] = {}
            found: dict[str, set[Forward]] = defaultdict(set)
            for call in self._calls:
                self._how[id(call)] = how = self._manner(call)
                self._reads[id(call)] = self._outside(call)
                if how == "forward":
                    found[call.path].add(self._forward(call))
            differing = {path for path, forms in found.items() if len(forms) > 1}
            if not differing:
                break
            self._inlined |= differing
        self.of = {path: next(iter(forms)) for path, forms in found.items()}
        self.called = {c.path for c in self._calls if self._how[id(c)] != "inline"}

    def _manner(self, call: Call) -> str:
        """How a call is written: as that of a layer, a sequence, a forward; or written out."""
        module = self.program.modules[call.path]
        reads, makes = self._outside(call), self._edges[id(call)][1]
        if call.path in self._inlined or not makes:
            return "inline"
        if call.path in self.layers:
            return "layer" if self._is_layer(call, module, reads, makes) else "inline"
        if computes_nothing(module):
            chain = form(module) is Form.SEQUENCE and self._is_chain(call, module)
            return "sequence" if chain else "inline"
        if isinstance(module, nn.MultiheadAttention) or self._of_torch(module):
            return "inline"
        return "forward"

    def _of_torch(self, module: nn.Module) -> bool:
        """Whether it is a layer of PyTorch that could not be made again."""
        return type(module).__module__.startswith("torch.nn.modules.") and not module._modules

    def _is_layer(
        self, call: Call, module: nn.Module, reads: list[Node], makes: list[Node]
    ) -> bool:
        if len(reads) != 1 or len(makes) != 1 or any(isinstance(p, Call) for p in call.parts):
            return False
        if isinstance(module, nn.RNNBase):
            first: Any = makes[0].args[1] if is_part(makes[0]) else None
            return first is not None and int(first) == 0
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            padding: Any = (*self._operators(call)[-1].args, *([0] * 6))[5]
            wanted: list[int] = list(module.output_padding)
            return list(padding or [0] * len(wanted)) == wanted
        return not is_part(makes[0])

    def _operators(self, call: Call) -> list[Node]:
        return [node for node in call.nodes() if not is_part(node)]

    def _is_chain(self, call: Call, module: nn.Module) -> bool:
        """Whether the children are called one after the other, each on what the last one made."""
        children = [
            self.program.first_path(f"{call.path}.{name}".removeprefix("."))
            for name in module._modules
        ]
        value, left = None, list(call.parts)
        for child in children:
            if not (left and isinstance(left[0], Call) and left[0].path == child):
                continue  # it hands on what it is given
            part = left.pop(0)
            assert isinstance(part, Call)
            reads, makes = self._reads[id(part)], self._edges[id(part)][1]
            if self._how[id(part)] == "inline" or len(reads) != 1 or len(makes) != 1:
                return False
            if value is not None and reads[0] is not value:
                return False
            value = makes[0]
        makes = self._edges[id(call)][1]
        return not left and makes == [value] and len(self._outside(call)) == 1

    def _outside(self, call: Call) -> list[Node]:
        """What a call has to be given."""
        reads = self._edges[id(call)][0]
        return [node for node in reads if self._held(node, call.path) is None]

    def _held(self, node: Node, start: str) -> str | None:
        """The words for a tensor of the network, in the code of a module."""
        for name in self.program.held.get(node, ()):
            owner, _, attribute = name.rpartition(".")
            if inside(owner, start):
                return reached(self.program.model, start, owner, attribute)
        if node in self.program.held:  # it hangs under another name of the module as well
            for name in self.program.held[node]:
                owner, _, attribute = name.rpartition(".")
                for other in self.program.aliases(owner):
                    if inside(other, start):
                        return reached(self.program.model, start, other, attribute)
        return None

    def _statements(self, call: Call, start: str) -> list[Statement]:
        found: list[Statement] = []
        for part in call.parts:
            if isinstance(part, Call):
                if self._how[id(part)] == "inline":
                    found.extend(self._statements(part, start))
                else:
                    found.append(self._calling(part, start))
            elif not (is_part(part) and _belongs(part)):
                found.append(operation(part, self._plain))
        return found

    def _calling(self, call: Call, start: str) -> Statement:
        reads, makes = self._reads[id(call)], self._edges[id(call)][1]
        module = self.program.modules[call.path]
        path = next((p for p in self.program.aliases(call.path) if inside(p, start)), None)
        if path is None:
            raise Unwritable(f"{call.path} is called by a module that does not hold it")
        text = reached(self.program.model, start, path)
        part = "[0]" if isinstance(module, nn.RNNBase) else ""

        def write(body: Body) -> str:
            return f"{text}({', '.join(map(body.value, reads))}){part}"

        return Statement(list(reads), list(makes), write)

    def _forward(self, call: Call) -> Forward:
        """The forward that a call shows."""
        kept: set[Node] = set()
        made = self._edges[id(call)][1]
        inner = set(call.nodes())
        while True:
            reads = self._reads[id(call)]
            given = dict(zip(reads, _letters(len(reads)), strict=True))
            body = Body(
                self._statements(call, call.path),
                given, set(), lambda node: self._held(node, call.path), kept,
            )  # fmt: skip
            try:
                lines = body.lines(made, ", ".join)
            except Missing as error:
                self._provide(error.node, kept, reads, inner)
                continue
            return Forward(tuple(given.values()), tuple(lines), len(made))

    def _provide(
        self, node: Node | None, kept: set[Node], reads: list[Node], inner: set[Node]
    ) -> None:
        """Makes a tensor whose size is wanted be at hand."""
        if node is None:
            node = self.program.given[0]
        if node in inner or node in reads:
            if node in kept:
                raise Unwritable(f"the size of {node} is not at hand where it is wanted")
            kept.add(node)
        else:
            reads.append(node)

    def is_sequence(self) -> bool:
        """Whether the network itself is a sequence of its children."""
        root = self.program.root
        self._edges[id(root)] = boundary(root.nodes())
        return form(self.program.model) is Form.SEQUENCE and self._is_chain(
            root, self.program.model
        )

    def root(
        self, given: dict[Node, str], fixed: set[str], returned: list[Any], shape: Any
    ) -> list[str]:
        """The statements of the network's own forward.

        Args:
            given: values -> the texts by which they are reached.
            fixed: texts that are no names of their own.
            returned: what the network puts out.
            shape: makes the text of the result.
        """
        kept: set[Node] = set()
        inner = {*self.program.root.nodes(), *given}
        while True:
            body = Body(
                self._statements(self.program.root, ""),
                given, fixed, lambda node: self._held(node, ""), kept,
            )  # fmt: skip
            try:
                return body.lines(returned, shape)
            except Missing as error:
                self._provide(error.node, kept, [], inner)


def _belongs(part: Node) -> bool:
    """Whether what is taken out of a result belongs to the statement that makes the result."""
    source: Any = part.args[0]
    return isinstance(source.meta.get("val"), tuple | list) and all(map(is_part, source.users))


def _letters(count: int) -> list[str]:
    names = ["x", "y", "z", "u", "v", "w"]
    return [*names[:count], *(f"x{i}" for i in range(2, count - len(names) + 2))]
