"""Operators with weights: layers read channels and make new ones, norms pass them on."""

import math

from torch import Tensor, nn

from amc.graph.capture.bake import computes_weight
from amc.graph.operators.interpreter import Labeller, Rule
from amc.graph.operators.labels import CONSTANT
from amc.graph.operators.operands import LayerCall, Op, ProductCall, Rows, Source, Unknown, Value
from amc.graph.operators.product_rules import dense


def convolution(run: Labeller, op: Op) -> Tensor:
    """Convolutions of any dimension, grouped, depthwise, transposed.

    In a grouped convolution the channels at the same place of every group go together, so that
    groups stay equally large. In a depthwise one, outputs live and die with their input.
    """
    given, out = op.given, op.out
    x, groups = run.tensor(given["input"]), int(given["groups"])
    transposed = "transpose" in op.name
    axis = x.ndim - (len(given["weight"].shape) - 1)  # of the channels: 1, or 0 without a batch
    depthwise = groups > 1 and x.shape[axis] == groups
    if depthwise and not _held(given["weight"]):
        return _filtered(run, op, x, axis)
    weight = _weight(run, given["weight"])
    inputs = _channels(run, op, x, axis)
    if depthwise:
        in_dim, out_dim = 1, 0
        outputs = _depthwise(run, weight, inputs, out.shape[axis] // groups, transposed)
    else:
        in_dim, out_dim = (0, 1) if transposed else (1, 0)
        outputs = _grouped(run, weight, inputs, out.shape[axis], groups, transposed)
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


def _filtered(run: Labeller, op: Op, x: Tensor, axis: int) -> Tensor:
    """A depthwise convolution whose filters are computed: one for all channels, or one for each.

    A constant filter that is expanded to the number of channels blurs every channel alike.
    """
    given, inputs = op.given, _channels(run, op, x, axis)
    outputs = inputs.repeat_interleave(op.out.shape[axis] // len(inputs))
    filters = run.tensor(given["weight"])
    if 0 in run.space.varying(filters):
        wide = inputs if "transpose" in op.name else outputs
        run.space.union(run.space.along(filters, 0), wide)
    else:
        why = f"{op.name} applies it to all channels alike{run.place}"
        run.space.freeze([filters], why)
    _bind_bias(run, given.get("bias"), outputs)
    run.perhaps_sized(inputs)
    run.costs(op, inputs)
    shape = [1] * op.out.ndim
    shape[axis] = len(outputs)
    return outputs.reshape(shape).expand(op.out.shape)


def _depthwise(
    run: Labeller, weight: Source, inputs: Tensor, multiplier: int, transposed: bool
) -> Tensor:
    """Labels of the outputs; ``multiplier`` of them follow each input."""
    if not isinstance(run.module, nn.modules.conv._ConvNd):  # surgery knows those
        run.perhaps_sized(inputs)
    if not transposed:
        return run.space.bind(weight.name, 0, inputs.repeat_interleave(multiplier))
    return run.bind_inputs(weight.name, 0, inputs).repeat_interleave(multiplier)


def _grouped(
    run: Labeller, weight: Source, inputs: Tensor, outputs: int, groups: int, transposed: bool
) -> Tensor:
    """New labels of the outputs, the same ones for every group."""
    parts = inputs.chunk(groups)
    if transposed:  # weight [in, out / groups, ...]
        for part in parts[1:]:
            run.space.union(parts[0], part)
        run.bind_inputs(weight.name, 0, inputs)
        return run.space.bind(weight.name, 1, run.space.mint(outputs // groups)).repeat(groups)
    for part in parts:  # weight [out, in / groups, ...]
        run.bind_inputs(weight.name, 1, part)
    return run.space.bind(weight.name, 0, run.space.mint(outputs // groups).repeat(groups))


def linear(run: Labeller, op: Op) -> Value:
    """Channels are the last dimension."""
    given, out = op.given, op.out
    if isinstance(given["weight"], Rows):
        return _of_rows(run, op, given["weight"])
    if isinstance(given["weight"], Tensor) and computes_weight(run.module):
        raise Unknown(COMPUTED + BAKED)
    if not _held(given["weight"]) or len(given["weight"].shape) == 1:
        return dense(run, op)
    weight, x = given["weight"], run.tensor(given["input"])
    run.bind_inputs(weight.name, 1, _channels(run, op, x, x.ndim - 1))
    outputs = run.space.bind(weight.name, 0, run.space.mint(weight.shape[0]))
    bias = _bind_bias(run, given.get("bias"), outputs)
    run.calls.append(LayerCall(weight.name, bias, "linear", 1, 0, out.numel() // out.shape[-1]))
    return outputs.expand(out.shape)


def _of_rows(run: Labeller, op: Op, weight: Rows) -> Value:
    """Some of a layer's outputs, such as the queries of a projection that holds keys as well.

    The layer is executed in parts; what of a part's cost is no multiple of the whole weight's is
    a product with as many columns as divide both.
    """
    x, name, part = run.tensor(op.given["input"]), weight.source.name, weight.shape[0]
    inputs = run.bind_inputs(name, 1, _channels(run, op, x, x.ndim - 1))
    whole = run.space.bind(name, 0, run.space.mint(weight.source.shape[0]))
    outputs, given = whole[weight.start : weight.stop], op.given.get("bias")
    bias = _bind_bias(run, given, outputs)
    if isinstance(given, Rows) and given.start == weight.start:
        bias = given.source.name
    positions = op.out.numel() // part
    times, left = divmod(positions * part, len(whole))
    run.calls.append(LayerCall(name, bias, "linear_rows", 1, 0, times))
    if left:
        columns = outputs[: math.gcd(part, len(whole))]
        run.products.append(ProductCall(left * len(inputs), (inputs, columns)))
        run.counted = False
    return outputs.expand(op.out.shape)


def per_channel(*parameters: str) -> Rule:
    """Operators with one entry per channel (dimension 1) that treat every channel alone."""

    def rule(run: Labeller, op: Op) -> Value:
        given = op.given
        x = run.tensor(given["input"] if "input" in given else given["self"])
        _bind_entries(run, [given.get(name) for name in parameters], x, min(1, x.ndim - 1))
        return x

    return rule


def group_norm(run: Labeller, op: Op) -> Value:
    """Every group of channels is normalised by itself: whole groups may go, and only those."""
    given, x = op.given, run.tensor(op.given["input"])
    groups, size = int(given["num_groups"]), x.shape[1]
    channels = run.space.along(x, 1)
    if groups == 1:
        raise Unknown("normalises over all channels")
    units = channels.reshape(groups, -1)
    if bool((units == CONSTANT).any()):
        raise Unknown("normalises over constants")
    if not run.sized(units[:, 0]):  # or read off a shape
        run.perhaps_sized(units[:, 0])
        run.doubt(channels, "group_norm has a number of groups that is written in forward")
    run.space.union(units[:, :1].expand_as(units), units)
    if groups != size:
        run.sized(channels)  # num_channels
    _bind_entries(run, [given["weight"], given["bias"]], x, 1)
    return x


def layer_norm(run: Labeller, op: Op) -> Value:
    """Normalises over the last dimensions; fine where these are not the channels."""
    x = run.tensor(op.args[0])
    over = range(x.ndim - len(op.given["normalized_shape"]), x.ndim)
    if set(over) & set(run.space.varying(x)):
        raise Unknown("normalises over the channels")
    return x


def _bind_entries(run: Labeller, parameters: list[Value], x: Tensor, dim: int) -> None:
    """Binds parameters with one entry per channel."""
    given = [p for p in parameters if p is not None]
    if not all(isinstance(source, Source) for source in given):
        raise Unknown("has parameters that are computed in forward")
    for source in given:
        if source.shape.numel() > 1:
            run.space.bind(source.name, 0, run.space.along(x, dim))
    if not given and isinstance(run.module, nn.modules.batchnorm._NormBase):
        run.sized(run.space.along(x, dim))  # nothing but num_features knows the channels


def _channels(run: Labeller, op: Op, x: Tensor, dim: int) -> Tensor:
    """The labels along the dimension that a layer reads; channels along others must stay."""
    if set(run.space.varying(x)) - {dim}:
        reason = f"{op.name} reads along another dimension than that of the channels{run.place}"
        run.space.freeze([x], reason)
    return run.space.along(x, dim)


COMPUTED = "has a weight that is computed in forward"
BAKED = "; amc.bake makes it a plain layer"


def _held(weight: Value) -> bool:
    """Whether a layer's weight is a parameter as the module holds it."""
    return isinstance(weight, Source) and weight.plain


def _weight(run: Labeller, weight: Value) -> Source:
    if isinstance(weight, Source) and weight.plain:
        return weight
    raise Unknown(COMPUTED + (BAKED if computes_weight(run.module) else ""))


def _bind_bias(run: Labeller, bias: Value, outputs: Tensor) -> str | None:
    if bias is None:
        return None
    if isinstance(bias, Source):
        run.space.bind(bias.name, 0, outputs)
        return bias.name
    if isinstance(bias, Rows):
        whole = run.space.bind(bias.source.name, 0, run.space.mint(bias.source.shape[0]))
        run.space.union(whole[bias.start : bias.stop], outputs)
        return None
    run.space.union(run.space.along(run.tensor(bias), 0), outputs)
    return None


def _first(value: Value) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)
