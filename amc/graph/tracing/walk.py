"""The walk of an exported program on labels: sub-graphs in line, writes carried to what they hit.

Programs have sub-graphs where a region runs under a mode of its own (autocast, gradients); the
mode does not concern channels. An operator may write into a view of another value.
"""

import operator
from collections.abc import Callable, Collection, Iterable
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from amc.graph.capture.heads import Heads, find_heads
from amc.graph.capture.lives import Lives, shares
from amc.graph.capture.moves import name_of
from amc.graph.operators.interpreter import Labeller
from amc.graph.operators.labels import CONSTANT, compact
from amc.graph.operators.operands import Kept, Op, Rows, Source, Unknown, Value
from amc.graph.operators.rules import LAYERS, costs_nothing, execute
from amc.graph.operators.shape_rules import scattered
from amc.graph.shrink import tensors

Replay = Callable[[Any], Any]
"""The operators that make a view, to be executed on other labels of its base."""


def label(
    program: Any, model: nn.Module, run: Labeller, without: Collection[str] | None = ()
) -> None:
    """Executes an exported program of the model on labels.

    Args:
        program: from `export`.
        model: whose tensors are meant.
        run: takes what is found; it may have executed another program of the model.
        without: names of attention whose heads are not to be kept apart; None for all.
    """
    first_names = _first_names(model)
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}

    def given(node: Node) -> Value:
        out: Any = node.meta.get("val")
        if node.name in named:
            return Source(first_names[named[node.name]], out.shape)
        if node.name not in signature.inputs_to_lifted_tensor_constants:
            return run.fixed(out, "network input")
        if out.numel() == 1:
            return torch.tensor(CONSTANT).expand(out.shape)
        return run.fixed(out, "meets a tensor made in forward")

    walk = _Walk(run, named, without)
    outputs = walk.along(
        program.graph_module,
        [given(node) for node in program.graph.nodes if node.op == "placeholder"],
    )
    run.kept = walk.kept([n for n in program.graph.nodes if n.name in signature.user_inputs])
    run.give_up(outputs, "network output")


class _Walk:
    """The values of all nodes, those of sub-graphs included."""

    def __init__(
        self, run: Labeller, parameters: Collection[str], without: Collection[str] | None
    ) -> None:
        self._run, self._parameters, self._without = run, parameters, without
        self._heads = Heads()
        self._unread, self._lost = set[Node](), set[Node]()
        self._values: dict[Node, Value] = {}
        self._views: dict[Node, tuple[Node, Replay]] = {}
        self._lives = Lives()

    def along(self, module: GraphModule, inputs: list[Value], given: Iterable[Any] = ()) -> Value:
        """Executes a graph and returns its outputs.

        Args:
            module: holds the graph.
            inputs: values of its placeholders.
            given: what they stand for in the graph outside.
        """
        places = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._values.update(zip(places, inputs, strict=True))
        for place, outside in zip(places, given, strict=False):
            if isinstance(outside, Node):
                self._views[place] = outside, lambda labels: labels
        found = find_heads(module.graph, self._parameters, self._without)
        self._heads.axes.update(found.axes)
        self._heads.owners.update(found.owners)
        self._unread |= _unread(module.graph, self._parameters)
        for node in module.graph.nodes:
            if node.op == "output":
                self._lives.use(node.all_input_nodes)
                return self._operands(node.args[0])
            if node.op == "get_attr":  # a sub-graph
                part = getattr(module, node.target, None)
                self._values[node] = part if isinstance(part, GraphModule) else None
            elif node.op == "call_function":
                self._call(node)
        return None

    def _operands(self, given: Any) -> Any:
        return torch.fx.node.map_arg(given, self._values.__getitem__)

    def _call(self, node: Node) -> None:
        """The labels of an operator's result; what cannot be followed is frozen."""
        self._lives.next()
        self._lives.use(node.all_input_nodes)
        fakes = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val"))
        args, kwargs = self._operands((tuple(node.args), dict(node.kwargs)))
        op = Op(node.target, args, kwargs, node.meta.get("val"), fakes)
        inner = _inner(op)
        if inner is not None:
            start = inner + 1
            self._values[node] = self.along(args[inner], list(args[start:]), node.args[start:])
            self._lives.use([node])
            return
        self._lives.use([node])
        if isinstance(args[0] if args else None, Source) and _makes_rows(node):
            self._values[node] = _rows(args[0], op.out)
            return
        run, stack = self._run, list((node.meta.get("nn_module_stack") or {}).values())
        site = stack[-1][0] if stack else ""
        run.enter(site, op.name, _place(site, node))
        run.at_heads = self._heads.axes.get(node, ())
        run.attention = self._heads.owners.get(node, "")
        try:
            if node in self._unread and not self._lost.isdisjoint(node.all_input_nodes):
                raise Unknown("is given what cannot be followed")
            self._values[node] = execute(run, op)
            self._follow_writes(node, op)
            return
        except Unknown as unknown:
            reason = str(unknown)
        except Exception as error:  # a rule that an odd form breaks must not end the trace
            reason = f"cannot be followed ({type(error).__name__}: {error})"
        if run.attention and self._without is None:
            reason += "; whole heads may go (--target channels,heads)"
        run.counted &= costs_nothing(op)
        earlier = "" if op.name in LAYERS else run.before([op.args, op.kwargs])
        why = earlier or f"{op.name} {reason}{run.place}"
        if node in self._unread:  # such as the mean of attention over heads: no reason to freeze
            self._lost.add(node)
            self._values[node] = run.fixed(op.out, why)
            return
        run.give_up([op.args, op.kwargs], why)
        out = self._values[node] = run.fixed(op.out, why)
        if op.name in LAYERS and isinstance(out, Tensor):
            run.unseen.setdefault(site or op.name, (compact(out).ravel(), why))

    def kept(self, inputs: Collection[Node]) -> list[Kept]:
        """The tensors that the execution keeps, and how long; all its operators are over.

        Args:
            inputs: the placeholders of what the network is given.
        """
        self._lives.given(inputs)
        found = []
        for node, place, first, last in self._lives.spans():
            labels, whole = self._values.get(node), node.meta["val"]
            if place is not None:
                labels, whole = _part(labels, place), whole[place]
            made = node.op == "call_function" or node in inputs
            if made and isinstance(labels, Tensor):
                found.append(Kept(labels, whole.element_size(), first, last))
        return found

    def _follow_writes(self, node: Node, op: Op) -> None:
        """Remembers what the result is a view of; a write changes the labels of what it hits."""
        base = node.args[0] if node.args else None
        if not isinstance(base, Node):
            return
        if op.target is operator.getitem:
            if base in self._views:
                whole, replay = self._views[base]
                self._views[node] = whole, lambda labels: replay(labels)[node.args[1]]
            return
        schema = getattr(op.target, "_schema", None)
        alias = schema.arguments[0].alias_info if schema and schema.arguments else None
        if alias is None:
            return
        if alias.is_write:
            self._views[node] = base, lambda labels: labels
            self._write(base, self._values[node])
        elif shares(node, base):
            args, kwargs = op.args[1:], op.kwargs
            self._views[node] = base, lambda labels: op.target(labels, *args, **kwargs)

    def _write(self, node: Node, labels: Value) -> None:
        """Changes the labels of a value, and of what it is a view of, where there were none."""
        before = self._values[node]
        if not isinstance(before, Tensor) or not isinstance(labels, Tensor):
            return
        self._values[node] = labels
        if node in self._views and bool((compact(before) == CONSTANT).any()):
            base, replay = self._views[node]
            whole = self._values[base]
            if not isinstance(whole, Tensor):
                raise Unknown("writes into a parameter")
            self._write(base, scattered(self._run, whole, replay, labels))


def _part(labels: Value, place: int) -> Value:
    return labels[place] if isinstance(labels, tuple | list) else None


def _inner(op: Op) -> int | None:
    """Where the operator is given the one sub-graph that it executes once, on what follows."""
    graphs = [i for i, a in enumerate(op.args) if isinstance(a, GraphModule)]
    if len(graphs) != 1 or op.kwargs:
        return None
    places = [n for n in op.args[graphs[0]].graph.nodes if n.op == "placeholder"]
    return graphs[0] if len(places) == len(op.args) - graphs[0] - 1 else None


def _place(site: str, node: Node) -> str:
    """Where the operator stands: module, and line of the user's code."""
    frames = [x.strip() for x in (node.meta.get("stack_trace") or "").splitlines()]
    user = [x for x in frames if x.startswith('File "') and "/torch/nn/" not in x]
    where = [f"in {site}"] if site else []
    if user:
        file, line = user[-1].split(",")[:2]
        where.append(f"{file[6:-1].rsplit('/', 1)[-1]}:{line.split()[-1]}")
    return f" ({', '.join(where)})" if where else ""


def _makes_rows(node: Node) -> bool:
    """Whether a parameter is taken apart into weights and biases of linear layers."""
    dim: Any = node.args[2] if len(node.args) > 2 else 0
    used = [(user, part) for part in node.users for user in part.users]
    return (
        name_of(node) in ("chunk", "split", "split_with_sizes")
        and not node.kwargs
        and int(dim) == 0
        and all(part.target is operator.getitem for part in node.users)
        and all(name_of(user) == "linear" and user.args[0] is not part for user, part in used)
    )


def _rows(source: Source, parts: Any) -> tuple[Rows, ...]:
    starts = [0, *accumulate(len(part) for part in parts)]
    return tuple(Rows(source, a, b) for a, b in pairwise(starts))


def _unread(graph: Graph, parameters: Collection[str]) -> set[Node]:
    """Results that nothing comes of, of operators that only look at activations."""
    found = set[Node]()
    for node in reversed(graph.nodes):
        target: Any = node.target
        if node.op != "call_function" or not all(user in found for user in node.users):
            continue
        schema = getattr(target, "_schema", None)
        pure = target is operator.getitem or (schema is not None and not schema.is_mutable)
        name = Op(target, (), {}, None)
        if pure and costs_nothing(name) and not _given(node, parameters):
            found.add(node)
    return found


def _given(node: Node, parameters: Collection[str]) -> bool:
    return any(one.name in parameters for one in node.all_input_nodes)


def _first_names(model: nn.Module) -> dict[str, str]:
    """Name of a tensor -> the first of its names; tied tensors have several."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in tensors(model).items()}
