"""The whole file: what it is, its classes, its forward, and how weights are loaded into it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils._pytree import SequenceKey, keystr, tree_flatten_with_path

from amc.exporters.source.calls import Program
from amc.exporters.source.forwards import Forwards
from amc.exporters.source.modules import Modules, indented
from amc.exporters.words.literals import class_name, literal, writable
from amc.exporters.words.places import computes_nothing
from amc.exporters.words.unwritable import Unwritable

Fixed = Mapping[int, Mapping[int, int]]
"""Input tensor, by its place -> dimension -> the only size that it may have."""


def source_of(
    program: Program, fixed: Fixed, plain: bool = True, least: Fixed | None = None
) -> str:
    """A Python file with the program's network as a plain module; its first lines are left out.

    Args:
        program: of the network.
        fixed: sizes that inputs must have.
        plain: whether operators are written as a person would.
        least: sizes that inputs must have at least.

    Raises:
        Unwritable: the network cannot be written so; the message says what of it.
    """
    forwards = Forwards(program, plain)
    modules = Modules(program, forwards)
    name = modules.new_name(class_name(type(program.model).__name__))
    network = [
        f"class {name}({modules.base('')}):",
        *indented(modules.constructor(modules.top)),
        *indented(_forward(program, forwards, fixed, least or {})),
    ]
    loading = [
        f"def load(path: str) -> {name}:",
        '    """The network with the weights of a safetensors file, in eval mode."""',
        "    from safetensors.torch import load_file",
        "",
        f"    network = {name}()",
        "    network.load_state_dict(load_file(path))",
        "    return network.eval()",
    ]
    parts = ["\n".join(part) for part in (*modules.classes(), network, loading)]
    body = "\n\n\n".join(parts)
    return f"{_imports(body)}\n\n\n{body}\n"


def _imports(body: str) -> str:
    lines = []
    if "OrderedDict(" in body:
        lines.append("from collections import OrderedDict\n")
    if "namedtuple(" in body:
        lines.append("from collections import namedtuple\n")
    lines.append("import torch")
    if "F." in body:
        lines.append("import torch.nn.functional as F")
    lines.append("from torch import Tensor, nn")
    return "\n".join(lines)


def quoted(text: str) -> str:
    """The text as a docstring."""
    safe = text.replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{safe}\n"""' if "\n" in safe else f'"""{safe}"""'


def _forward(program: Program, forwards: Forwards, fixed: Fixed, least: Fixed) -> list[str]:
    """The network's own forward; nothing where a sequence has it anyway."""
    head, given, compound = _signature(program)
    checks = []
    for place, sizes in fixed.items():
        node = program.given[place]
        checks.extend(_check(given[node], node.meta["val"].ndim, sizes))
    for place, sizes in least.items():
        text = given[program.given[place]]
        for dim, size in sizes.items():
            if dim not in fixed.get(place, {}):
                shape = f"{text}.shape[{dim}]"
                checks.append(f"if {shape} < {size}:")
                said = f"shape[{dim}] must be at least {size}, got {{{shape}}}"
                checks.append(f'    raise ValueError(f"{said}")')
    if computes_nothing(program.model) and forwards.is_sequence() and not checks:
        return []
    returned, shape = _results(program)
    lines = forwards.root(given, compound, returned, shape)
    return ["", head, *indented([*checks, *lines])]


def _check(text: str, ndim: int, sizes: Mapping[int, int]) -> list[str]:
    """Statements that refuse other sizes than those that the program was made for."""
    dims = sorted(sizes)
    start = next((d for d in dims if dims[dims.index(d) :] == list(range(d, ndim))), ndim)
    parts = [(f"{text}.shape[{d}]", str(sizes[d])) for d in dims if d < start]
    if start < ndim:
        parts.append(
            (f"{text}.shape[{start}:]", literal(tuple(sizes[d] for d in range(start, ndim))))
        )
    found = []
    for place, wanted in parts:
        found.append(f"if {place} != {wanted}:")
        shape = place.partition("[")[2].rstrip("]")
        found.append(
            f'    raise ValueError(f"shape[{shape}] must be {wanted}, got {{{text}.shape}}")'
        )
    return found


def _signature(program: Program) -> tuple[str, dict[Node, str], set[str]]:
    """The first line of forward, the words for every input, and those that are no names."""
    inputs = program.inputs
    leaves: list[Any] = tree_flatten_with_path((inputs.args, inputs.kwargs))[0]
    names, rest = _parameters(program)
    words = []
    for (first, second, *more), value in leaves:
        if isinstance(first, SequenceKey) and first.idx == 0:
            text = (
                names[second.idx]
                if second.idx < len(names)
                else f"{rest}[{second.idx - len(names)}]"
            )
        else:
            text = second.key
        if not writable(text.partition("[")[0]) or text == "self":
            raise Unwritable(f"an input is called {text!r}")
        if not isinstance(value, Tensor | None):
            raise Unwritable(f"the input {text} is no tensor")
        words.append(text + keystr(tuple(more)))
    nodes: dict[Node, str] = {}
    given = iter(program.given)
    for spec, text in zip(_user_inputs(program), words, strict=True):
        if hasattr(spec.arg, "name") and (node := next(given, None)) is not None:
            nodes[node] = text
    taken = [f"{name}: Tensor" if name in words else name for name in names]
    taken += [f"*{rest}: Tensor"] if len(inputs.args) > len(names) else []
    named = [f"{n}: Tensor" if n in words else n for n in inputs.kwargs]
    line = ", ".join(("self", *taken, *named))
    return f"def forward({line}):", nodes, {w for w in words if not writable(w)}


def _user_inputs(program: Program) -> list[Any]:
    specs = program.exported.graph_signature.input_specs
    return [spec for spec in specs if spec.kind is InputKind.USER_INPUT]


def _parameters(program: Program) -> tuple[list[str], str]:
    """Names of forward's positional parameters that are given, and of the one that takes more."""
    count = len(program.inputs.args)
    try:
        parameters = inspect.signature(program.model.forward).parameters.values()
    except (TypeError, ValueError):
        return [f"x{i}" for i in range(count)], "more"
    positional = [p.name for p in parameters
                  if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]  # fmt: skip
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "more")
    return positional[:count], rest


def _results(program: Program) -> tuple[list[Any], Any]:
    """What the network puts out, and how its text is made of the texts of that."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    values: Any = output.args[0]
    kinds = [spec.kind.name for spec in program.exported.graph_signature.output_specs]
    if set(kinds) - {"USER_OUTPUT"}:
        raise Unwritable("forward changes what the network holds")
    spec = program.exported.call_spec.out_spec
    for value in values:
        if not isinstance(value, Node):
            literal(value)
    return list(values), lambda texts: _shaped(spec, iter(texts))


def _shaped(spec: Any, texts: Any) -> str:
    """The text of results in their containers."""
    kind = spec.type
    if kind is None:
        return str(next(texts))
    inner = [_shaped(child, texts) for child in spec.children()]
    if kind is tuple or (isinstance(kind, type) and issubclass(kind, torch.Size)):
        return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
    if kind is list:
        return f"[{', '.join(inner)}]"
    context = spec.context
    if "namedtuple" in str(kind) or (hasattr(context, "_fields")):
        fields = list(context._fields)
        name = class_name(context.__name__)
        return f"namedtuple({name!r}, {fields!r})({', '.join(inner)})"
    keys = _keys(context, len(inner))
    return f"{{{', '.join(f'{k!r}: {text}' for k, text in zip(keys, inner, strict=True))}}}"


def _keys(context: Any, count: int) -> list[Any]:
    """Keys of a dictionary, or names of what a class of the user's puts out."""
    for found in (context, *(context if isinstance(context, tuple | list) else ())):
        if isinstance(found, list | tuple) and len(found) == count:
            if all(isinstance(key, str | int) for key in found):
                return list(found)
    raise Unwritable("forward returns an object of a class of its own")
