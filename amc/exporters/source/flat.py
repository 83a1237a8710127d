"""Programs within a program, put in their place.

`torch.export` keeps what runs under another gradient mode, or without autocast, as a program of
its own. Neither changes an output.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

GRADIENT, AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"


def flat(module: GraphModule) -> Graph:
    """The program without programs within; the same graph where there are none."""
    if not any(node.op == "get_attr" for node in module.graph.nodes):
        return module.graph
    graph = Graph()
    results = _copied(module, graph, {})
    output = next(node for node in module.graph.nodes if node.op == "output")
    graph.output(results).meta.update(output.meta)
    return graph


def _copied(module: GraphModule, graph: Graph, known: dict[Node, Any]) -> Any:
    """Copies all operators; placeholders that are known are what they are known as.

    Returns:
        What the program puts out.
    """
    for node in module.graph.nodes:
        if node.op == "output":
            return map_arg(node.args[0], lambda x: known[x])
        if node in known:
            continue
        inner = _inner(node)
        if inner is not None:
            program, given = inner
            wanted = module.get_submodule(program.target)
            places = [x for x in wanted.graph.nodes if x.op == "placeholder"]  # type: ignore[union-attr]
            values = [known[x] if isinstance(x, Node) else x for x in given]
            known[node] = _copied(
                wanted,  # type: ignore[arg-type]
                graph,
                dict(zip(places, values, strict=True)),
            )
        elif _part_of_known(node, known):
            known[node] = known[node.args[0]][node.args[1]]
        elif node.op != "get_attr" or not _only_inner(node):
            known[node] = graph.node_copy(node, lambda x: known[x])
    return None


def _inner(node: Node) -> tuple[Any, list[Any]] | None:
    """The program that a node runs and what it is given, if it may be put in its place."""
    name = getattr(node.target, "__name__", "")
    if name == GRADIENT:
        return node.args[1], list(node.args[2:])
    if name == AUTOCAST and node.args[2] is False:
        return node.args[4], list(node.args[5:])
    return None


def _only_inner(node: Node) -> bool:
    return all(_inner(user) is not None for user in node.users)


def _part_of_known(node: Node, known: dict[Node, Any]) -> bool:
    """Whether it takes a result out of a program that was put in its place."""
    if getattr(node.target, "__name__", "") != "getitem":
        return False
    return isinstance(known.get(node.args[0]), tuple | list)  # type: ignore[arg-type]
