"""An exported program as the calls of modules that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from amc.exporters.source.flat import flat
from amc.exporters.words.unwritable import Unwritable
from amc.graph.capture.export import Inputs
from amc.graph.shrink import tensors

CHECKS = (
    "aten._assert", "aten.sym_constrain", "aten._functional_assert", "aten._functional_sym",
)  # fmt: skip
"""Beginnings of the names of operators that compute nothing."""


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: of the module, the first of its names.
        parts: what it did, in order.
    """

    path: str
    parts: list[Node | Call] = field(default_factory=list)

    def nodes(self) -> Iterator[Node]:
        """All operators, also of the calls inside."""
        for part in self.parts:
            if isinstance(part, Call):
                yield from part.nodes()
            else:
                yield part

    def calls(self) -> Iterator[Call]:
        """Calls inside, each after those that it holds."""
        for part in self.parts:
            if isinstance(part, Call):
                yield from part.calls()
                yield part


class Program:
    """What `torch.export` made of a network, and what its nodes stand for.

    Attributes:
        exported: the program.
        graph: its operators.
        model: what was exported.
        inputs: what it was exported with.
        root: the call of the network.
        torn: paths of modules of which a call is no single stretch of the program.
    """

    def __init__(self, exported: Any, model: nn.Module, inputs: Inputs) -> None:
        self.exported, self.model, self.inputs = exported, model, inputs
        self.graph = flat(exported.graph_module)
        self.modules = dict(model.named_modules(remove_duplicate=False))
        first: dict[int, str] = {}
        for path, module in self.modules.items():
            first.setdefault(id(module), path)
        self._first = first
        self.held: dict[Node, tuple[str, ...]] = {}
        self.constants: dict[str, Tensor] = {}
        self.given: list[Node] = []
        self._placeholders()
        self.torn: set[str] = set()
        self.root = self._calls()

    def first_path(self, path: str) -> str:
        """The first of the names of a module."""
        return self._first[id(self.modules[path])]

    def aliases(self, path: str) -> list[str]:
        """All names of a module."""
        module = self.modules[path]
        return [other for other, one in self.modules.items() if one is module]

    def _placeholders(self) -> None:
        """Finds what every input of the program is: held by the network, or given."""
        names: dict[int, list[str]] = {}
        held = tensors(self.model)
        for name, tensor in held.items():
            names.setdefault(id(tensor), []).append(self._canonical(name))
        nodes = {node.name: node for node in self.graph.nodes if node.op == "placeholder"}
        for spec in self.exported.graph_signature.input_specs:
            node = nodes.get(getattr(spec.arg, "name", ""))
            if spec.kind is InputKind.USER_INPUT:
                if node is not None:
                    self.given.append(node)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in held:
                assert node is not None
                self.held[node] = tuple(dict.fromkeys(names[id(held[spec.target])]))
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                assert node is not None
                self._constant(node, spec.target)
            else:
                raise Unwritable(f"the program holds {spec.target or spec.kind.name.lower()}")

    def _constant(self, node: Node, target: str) -> None:
        """A tensor that forward writes down: kept in the module that does."""
        value = self.exported.constants[target]
        owner, _, name = target.rpartition(".")
        if owner not in self.modules:
            owner, name = "", target.replace(".", "_")
        held = self.modules[owner]
        while hasattr(held, name) and getattr(held, name) is not value:
            name += "_"
        place = self._canonical(f"{owner}.{name}".removeprefix("."))
        self.constants[place] = value
        self.held[node] = (place,)

    def _canonical(self, tensor: str) -> str:
        owner, _, name = tensor.rpartition(".")
        return f"{self.first_path(owner)}.{name}".removeprefix(".")

    def _calls(self) -> Call:
        root = Call("")
        opened: list[tuple[str, Call]] = [("", root)]
        seen: set[str] = set()
        for node in self.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            if node.op != "call_function":
                raise Unwritable(f"the program has a node {node.op} {node.target}")
            if is_number(node) or str(node.target).startswith(CHECKS):
                continue
            stack = self._stack(node)
            depth = 1
            while depth < min(len(opened), len(stack) + 1):
                if opened[depth][0] != stack[depth - 1][0]:
                    break
                depth += 1
            del opened[depth:]
            for key, path in stack[depth - 1 :]:
                if key in seen:
                    self.torn.add(path)
                seen.add(key)
                opened[-1][1].parts.append(call := Call(path))
                opened.append((key, call))
            opened[-1][1].parts.append(node)
        return root

    def _stack(self, node: Node) -> list[tuple[str, str]]:
        """Keys and paths of the calls that a node runs in, from the outermost; not the network."""
        found = []
        for key, (path, *_) in node.meta.get("nn_module_stack", {}).items():
            if path and path in self.modules:
                found.append((key, self.first_path(path)))
        return found


def is_number(node: Node) -> bool:
    """Whether a node stands for a number, no tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int | float)


def operands(node: Node) -> list[Node]:
    """What a node reads, in order, as often as it is read; no numbers."""
    found: list[Node] = []

    def look(value: Any) -> None:
        if isinstance(value, Node):
            if not is_number(value):
                found.append(value)
        elif isinstance(value, list | tuple):
            for one in value:
                look(one)
        elif isinstance(value, dict):
            look(tuple(value.values()))

    look(node.args)
    look(node.kwargs)
    return found


def boundary(nodes: Iterable[Node]) -> tuple[list[Node], list[Node]]:
    """What a stretch of the program reads from outside, and what of it is read outside."""
    inside = dict.fromkeys(nodes)
    read = dict.fromkeys(x for node in inside for x in operands(node) if x not in inside)
    made = [
        node
        for node in inside
        if any(user not in inside and _computes(user) for user in node.users)
    ]
    return list(read), made


def _computes(node: Node) -> bool:
    return not (is_number(node) or str(node.target).startswith(CHECKS))
