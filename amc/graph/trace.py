"""From a network to its channel graph: export, run once on labels, collect, prove.

`torch.export` gives the ATen operators of one execution in eval mode. They are run on channel
labels; an operator without a rule freezes the channels that reach it. What is found is proven by
executing a cut: the shrunk network must equal the masked one, otherwise groups are frozen.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from amc.graph.branches import blamed, decided
from amc.graph.collect import collect
from amc.graph.cuts import unevenly
from amc.graph.export import Inputs, count_macs, export
from amc.graph.fit import check_fit
from amc.graph.groups import ChannelGraph, ChannelGroup
from amc.graph.interpreter import Labeller, Op, Source, Unknown, Value
from amc.graph.join import partners, unite
from amc.graph.observe import Observed
from amc.graph.prove import Proof, spared
from amc.graph.rules import costs_nothing, execute
from amc.graph.surgery import duplicate, tensors


def trace(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
) -> ChannelGraph:
    """Finds the channel groups of a network.

    Args:
        model: any module; it is copied and never changed.
        example_inputs: positional inputs of one execution, tensors or containers of them; the
            first tensor's first dimension is the batch.
        example_kwargs: keyword inputs of the same execution.

    Returns:
        The graph; groups that must stay whole carry the reason.

    Raises:
        UnsupportedModelError: the network cannot be exported; the message says what stops it.
    """
    check_fit(model)
    inputs = Inputs(example_inputs, dict(example_kwargs or {}))
    program = export(duplicate(model).eval(), inputs)  # may leave traces in what it exports
    proof = Proof(model, inputs)
    run = label(program, model, proof.observed)
    macs = None if run.counted else count_macs(program, inputs)
    graph = collect(run, model, inputs.batch, macs)
    failing = proof.failing(graph, unevenly(graph))
    if _adopt_guesses(run, [g for g in graph.decisions if g.name in failing]):
        graph = collect(run, model, inputs.batch, macs)
        failing = proof.failing(graph, unevenly(graph))
    while together := partners(graph, proof, failing):
        for groups in together:
            unite(run.space, groups)
        graph = collect(run, model, inputs.batch, macs)
        failing = proof.failing(graph, unevenly(graph))
    graph = graph.freeze(blamed(graph, proof, failing))
    return decided(spared(graph, proof), proof)


def label(program: Any, model: nn.Module, observed: Observed) -> Labeller:
    """Executes an exported program of the model on labels.

    Args:
        program: of one execution.
        model: whose tensors are meant.
        observed: what the model does with the numbers that it holds.
    """
    run, first_names = Labeller(model, observed), _first_names(model)
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values: dict[str, Value] = {}

    def operands(node_args: Any) -> Any:
        return torch.fx.node.map_arg(node_args, lambda n: values[n.name])

    for node in program.graph.nodes:
        out = node.meta.get("val")
        if node.op == "placeholder":
            if node.name in named:
                values[node.name] = Source(first_names[named[node.name]], out.shape)
            else:
                constant = node.name in signature.inputs_to_lifted_tensor_constants
                reason = "meets a tensor made in forward" if constant else "network input"
                values[node.name] = run.fixed(out, reason)
        elif node.op == "output":
            run.give_up(operands(node.args), "network output")
        elif node.op == "call_function":
            op = Op(node.target, operands(tuple(node.args)), operands(dict(node.kwargs)), out)
            values[node.name] = _execute(run, op, node)
        else:  # get_attr: a sub-graph of a higher-order operator
            values[node.name] = None
    return run


def _execute(run: Labeller, op: Op, node: Any) -> Value:
    """The labels of an operator's result; what cannot be followed is frozen."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    site = stack[-1][0] if stack else ""
    run.enter(site, op.name, _place(site, node))
    try:
        return execute(run, op)
    except Unknown as unknown:
        reason = str(unknown)
    except Exception as error:  # a rule that an operator's odd form breaks must not end the trace
        reason = f"cannot be followed ({type(error).__name__}: {error})"
    run.counted &= costs_nothing(op)
    why = f"{op.name} {reason}{run.place}"
    run.give_up([op.args, op.kwargs], why)
    return run.fixed(op.out, why)


def _place(site: str, node: Any) -> str:
    """Where the operator stands: module, and line of the user's code."""
    frames = [x.strip() for x in (node.meta.get("stack_trace") or "").splitlines()]
    user = [x for x in frames if x.startswith('File "') and "/torch/nn/" not in x]
    where = [f"in {site}"] if site else []
    if user:
        file, line = user[-1].split(",")[:2]
        where.append(f"{file[6:-1].rsplit('/', 1)[-1]}:{line.split()[-1]}")
    return f" ({', '.join(where)})" if where else ""


def _first_names(model: nn.Module) -> dict[str, str]:
    """Name of a tensor -> the first of its names; tied tensors have several."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in tensors(model).items()}


def _adopt_guesses(run: Labeller, groups: list[ChannelGroup]) -> bool:
    """Takes attributes that may hold the sizes of these groups for such; whether there are any."""
    roots = set()
    for group in groups:
        for member in group.members:
            labels = run.space.bound[member.tensor, member.dim][member.index.ravel()]
            roots |= set(run.space.roots(labels).tolist())
    guesses = [
        (name, labels)
        for name, labels in run.guesses
        if not roots.isdisjoint(run.space.roots(labels).tolist())
    ]
    for name, labels in guesses:
        run.space.bind(name, 0, labels)
    return bool(guesses)
