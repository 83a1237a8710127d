"""Operators with weights: layers read channels and make new ones, norms pass them on."""

import torch
from torch import Tensor

from amc.graph.interpreter import Labeller, LayerCall, Op, Rule, Source, Unknown, Value
from amc.graph.labels import CONSTANT


def convolution(run: Labeller, op: Op) -> Tensor:
    """Convolutions of any dimension, grouped, depthwise, transposed.

    In a grouped convolution the channels at the same place of every group go together, so that
    groups stay equally large. In a depthwise one, outputs live and die with their input.
    """
    given, out = op.given, op.out
    weight, x, groups = _weight(given["weight"]), run.tensor(given["input"]), int(given["groups"])
    transposed = "transpose" in op.name
    if transposed and groups > 1:
        raise Unknown("a grouped transposed convolution")
    axis = x.ndim - (len(weight.shape) - 1)  # channels of the input; 1, or 0 without a batch
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    inputs = run.space.along(x, axis)
    into, from_ = len(inputs) // groups, out.shape[axis] // groups
    depthwise = groups > 1 and into == 1
    if depthwise:
        outputs = run.space.bind(weight.name, out_dim, inputs.repeat_interleave(from_))
    else:
        for first in range(0, len(inputs), into):
            _bind_inputs(run, weight.name, in_dim, inputs[first : first + into])
        outputs = run.space.bind(weight.name, out_dim, run.space.mint(from_).repeat(groups))
    spatial = x.shape[axis + 1 :]
    run.calls.append(
        LayerCall(
            weight.name,
            _bind_bias(run, given.get("bias"), outputs),
            "depthwise" if depthwise else op.name,
            in_dim,
            out_dim,
            (x.numel() // x.shape[axis]) if transposed else (out.numel() // out.shape[axis]),
            groups,
            height=spatial[0],
            width=spatial[-1] if len(spatial) > 1 else 1,
            stride=_first(given["stride"]),
            kernel=weight.shape[2],
        )
    )
    shape = [1] * out.ndim
    shape[axis] = len(outputs)
    return outputs.reshape(shape).expand(out.shape)


def linear(run: Labeller, op: Op) -> Tensor:
    """Channels are the last dimension."""
    given, out = op.given, op.out
    weight, x = _weight(given["weight"]), run.tensor(given["input"])
    _bind_inputs(run, weight.name, 1, run.space.along(x, x.ndim - 1))
    outputs = run.space.bind(weight.name, 0, run.space.mint(weight.shape[0]))
    bias = _bind_bias(run, given.get("bias"), outputs)
    run.calls.append(LayerCall(weight.name, bias, "linear", 1, 0, out.numel() // out.shape[-1]))
    return outputs.expand(out.shape)


def per_channel(*parameters: str) -> Rule:
    """Operators with one entry per channel (dimension 1) that treat every channel alone."""

    def rule(run: Labeller, op: Op) -> Value:
        given = op.given
        x = run.tensor(given["input"] if "input" in given else given["self"])
        for name in parameters:
            source = given.get(name)
            if source is None or (isinstance(source, Source) and source.shape.numel() == 1):
                continue
            if not isinstance(source, Source):
                raise Unknown(f"its {name} is computed in forward")
            run.space.bind(source.name, 0, run.space.along(x, 1))
        return x

    return rule


def _weight(weight: Value) -> Source:
    if not isinstance(weight, Source):
        raise Unknown("its weight is computed in forward")
    return weight


def _bind_inputs(run: Labeller, weight: str, dim: int, inputs: Tensor) -> None:
    """Binds a weight's input slices; slices that read a constant can never go."""
    constant = inputs == CONSTANT
    if bool(constant.any()):
        stay = run.space.mint(len(inputs))
        run.space.freeze([stay[constant]], "reads a constant")
        inputs = torch.where(constant, stay, inputs)
    run.space.bind(weight, dim, inputs)


def _bind_bias(run: Labeller, bias: Value, outputs: Tensor) -> str | None:
    if bias is None:
        return None
    if not isinstance(bias, Source):
        raise Unknown("its bias is computed in forward")
    run.space.bind(bias.name, 0, outputs)
    return bias.name


def _first(value: Value) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)
