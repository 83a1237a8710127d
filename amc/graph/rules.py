"""What each ATen operator does to channel labels.

Operators fall into a few kinds: layers (read channels, make new ones), element-wise (join what
meets), movement (applied to the labels as they are), spatial (local in space, channels pass
through), reductions. An operator that is none of these freezes the channels that reach it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from amc.graph.labels import CONSTANT, LabelSpace, uniform

Value: TypeAlias = Any  # a label tensor, a Source, a number, None, or a tuple / list of these


@dataclass(frozen=True)
class Source:
    """A parameter or buffer of the model that has not been used as an activation (yet)."""

    name: str
    shape: torch.Size


@dataclass(frozen=True)
class LayerCall:
    """One execution of a convolution or linear layer.

    Attributes:
        weight, bias: dotted names of its tensors.
        in_dim, out_dim: the dimensions of the weight that hold input and output channels.
        positions: how often the whole weight is applied, over the batch; MACs = positions x numel.
        groups: groups of the convolution; 1 for a linear layer.
        depthwise: one input channel per group, so that outputs live and die with inputs.
        height, width: spatial size of the input, for the state of the environment.
        stride, kernel: along the first spatial dimension.
    """

    weight: str
    bias: str | None
    kind: str
    in_dim: int
    out_dim: int
    positions: int
    groups: int
    depthwise: bool
    height: int
    width: int
    stride: int
    kernel: int


class Unknown(Exception):
    """An operator, or a use of one, that has no rule; its text is the reason for freezing."""


class Interpreter:
    """Runs operators on labels, and records the layers that it meets.

    Attributes:
        space: the labels.
        calls: layers in execution order.
        entries: labels of parameters and buffers that were used as activations, per entry.
        opaque: tensors whose use is not understood -> why.
    """

    def __init__(self) -> None:
        self.space = LabelSpace()
        self.calls: list[LayerCall] = []
        self.entries: dict[str, Tensor] = {}
        self.opaque: dict[str, str] = {}

    def run(
        self, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
    ) -> Value:
        """Labels of the operator's result; ``out`` holds its (fake) value.

        Raises:
            Unknown: there is no rule.
        """
        name = target.overloadpacket.__name__ if hasattr(target, "overloadpacket") else str(target)
        rule = RULES.get(name)
        if rule is None and torch.Tag.pointwise in getattr(target, "tags", ()):
            rule = _pointwise
        if rule is None:
            raise Unknown(f"operator {name} is not known")
        return rule(self, target, args, kwargs, out)

    def tensor(self, value: Value) -> Tensor:
        """The labels of an operand; a parameter becomes an activation with entries of its own."""
        if isinstance(value, Source):
            if value.name not in self.entries:
                if value.shape.numel() > 2**20:
                    raise Unknown(f"{value.name} has too many entries to follow one by one")
                labels = self.space.mint(value.shape.numel()).reshape(value.shape)
                self.entries[value.name] = labels
            return self.entries[value.name]
        if not isinstance(value, Tensor):
            raise Unknown(f"an operand is a {type(value).__name__}")
        return value

    def give_up(self, values: Value, reason: str) -> None:
        """Freezes every channel among the operands."""
        if isinstance(values, list | tuple):
            for value in values:
                self.give_up(value, reason)
        elif isinstance(values, dict):
            self.give_up(list(values.values()), reason)
        elif isinstance(values, Source):
            self.opaque.setdefault(values.name, reason)
        elif isinstance(values, Tensor):
            self.space.freeze([values], reason)

    def fixed(self, out: Any, reason: str) -> Value:
        """Labels of a result whose channels must stay, shaped as ``out``."""
        if isinstance(out, list | tuple):
            return tuple(self.fixed(o, reason) for o in out)
        if not isinstance(out, Tensor):
            return out
        axis = 1 if out.ndim > 1 else 0
        labels = self.space.mint(out.shape[axis] if out.ndim else 1)
        self.space.freeze([labels], reason)
        shape = [1] * out.ndim
        if out.ndim:
            shape[axis] = out.shape[axis]
        return labels.reshape(shape).expand(out.shape)


Rule = Callable[[Interpreter, Any, tuple[Value, ...], dict[str, Value], Any], Value]


def _arguments(target: Any, args: tuple[Value, ...], kwargs: dict[str, Value]) -> dict[str, Value]:
    """Operands by their name in the operator's schema, defaults filled in."""
    named: dict[str, Value] = {}
    for position, argument in enumerate(target._schema.arguments):
        if position < len(args):
            named[argument.name] = args[position]
        elif argument.name in kwargs:
            named[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            named[argument.name] = argument.default_value
    return named


# ---- layers ------------------------------------------------------------------------------------


def _layer_weight(run: Interpreter, weight: Value) -> Source:
    if not isinstance(weight, Source):
        raise Unknown("its weight is computed in forward")
    return weight


def _bind_bias(run: Interpreter, bias: Value, out: Tensor) -> str | None:
    if bias is None:
        return None
    if not isinstance(bias, Source):
        raise Unknown("its bias is computed in forward")
    run.space.bind(bias.name, 0, out)
    return bias.name


def _first(value: Value) -> int:
    return int(value[0]) if isinstance(value, list | tuple) else int(value)


def _convolution(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Tensor
) -> Tensor:
    given = _arguments(target, args, kwargs)
    weight, x, groups = (
        _layer_weight(run, given["weight"]),
        run.tensor(given["input"]),
        int(given["groups"]),
    )
    transposed = "transpose" in target.overloadpacket.__name__
    axis = x.ndim - (len(weight.shape) - 1)  # channels of the input; 1, or 0 without a batch
    inputs = run.space.along(x, axis)
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    per_group_in, per_group_out = len(inputs) // groups, out.shape[axis] // groups
    depthwise = groups > 1 and per_group_in == 1 and not transposed
    if transposed and groups > 1:
        raise Unknown("a grouped transposed convolution")
    if depthwise:
        outputs = run.space.bind(weight.name, out_dim, inputs.repeat_interleave(per_group_out))
    else:
        for chunk in inputs.split(per_group_in):  # the same channels go from every group
            _bind_inputs(run, weight.name, in_dim, chunk)
        minted = run.space.bind(weight.name, out_dim, run.space.mint(per_group_out).repeat(groups))
        outputs = minted
    bias = _bind_bias(run, given.get("bias"), outputs)
    spatial = list(x.shape[axis + 1 :])
    run.calls.append(
        LayerCall(
            weight.name, bias, "depthwise" if depthwise else target.overloadpacket.__name__,
            in_dim, out_dim,
            positions=(x.numel() // x.shape[axis]) if transposed else out.numel() // out.shape[axis],
            groups=groups, depthwise=depthwise,
            height=spatial[0], width=spatial[-1] if len(spatial) > 1 else 1,
            stride=_first(given["stride"]), kernel=weight.shape[2],
        )
    )  # fmt: skip
    shape = [1] * out.ndim
    shape[axis] = len(outputs)
    return outputs.reshape(shape).expand(out.shape)


def _bind_inputs(run: Interpreter, weight: str, dim: int, inputs: Tensor) -> None:
    """Binds a weight's input slices; slices that read a constant can never go."""
    constant = inputs == CONSTANT
    if bool(constant.any()):
        stay = run.space.mint(len(inputs))
        run.space.freeze([stay[constant]], "reads a constant")
        inputs = torch.where(constant, stay, inputs)
    run.space.bind(weight, dim, inputs)


def _linear(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Tensor
) -> Tensor:
    given = _arguments(target, args, kwargs)
    weight, x = _layer_weight(run, given["weight"]), run.tensor(given["input"])
    _bind_inputs(run, weight.name, 1, run.space.along(x, x.ndim - 1))
    outputs = run.space.bind(weight.name, 0, run.space.mint(weight.shape[0]))
    bias = _bind_bias(run, given.get("bias"), outputs)
    run.calls.append(
        LayerCall(
            weight.name, bias, "linear", in_dim=1, out_dim=0,
            positions=out.numel() // out.shape[-1], groups=1, depthwise=False,
            height=1, width=1, stride=1, kernel=1,
        )
    )  # fmt: skip
    return outputs.expand(out.shape)


# ---- normalisation and activation with parameters ----------------------------------------------


def _per_channel(*operands: str) -> Rule:
    """Operators with one parameter per channel (dimension 1) that treat each channel alone."""

    def rule(
        run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
    ) -> Value:
        given = _arguments(target, args, kwargs)
        x = run.tensor(given.get("input", given.get("self")))
        for operand in operands:
            source = given.get(operand)
            if source is None or (isinstance(source, Source) and source.shape.numel() == 1):
                continue
            if not isinstance(source, Source):
                raise Unknown(f"its {operand} is computed in forward")
            run.space.bind(source.name, 0, run.space.along(x, 1))
        return x

    return rule


# ---- element-wise, movement, spatial, reductions -----------------------------------------------


def _pointwise(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    operands = [run.tensor(a) for a in (*args, *kwargs.values()) if isinstance(a, Tensor | Source)]
    if not operands:
        return _constant(out)
    in_place = target.overloadpacket.__name__.endswith("_")
    if in_place and (isinstance(args[0], Source) or bool((operands[0] == CONSTANT).any())):
        raise Unknown("writes into a constant")
    return run.space.join(operands)


def _same(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    return run.tensor(args[0])


def _constant(out: Any) -> Value:
    if isinstance(out, list | tuple):
        return tuple(_constant(o) for o in out)
    if not isinstance(out, Tensor):
        return out
    return torch.tensor(CONSTANT).expand(out.shape)


def _creation(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    return _constant(out)


def _movement(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    """Runs the operator on the labels themselves."""
    if "view" in target.overloadpacket.__name__:  # labels are stride-0 views: reshape them
        if not isinstance(args[1], list | tuple):
            raise Unknown("reinterprets the data type")
        return run.space.single_axis(uniform(run.tensor(args[0]).reshape(list(args[1]))))
    return run.space.single_axis(uniform(target(*[_labels(run, a) for a in args], **kwargs)))


def _labels(run: Interpreter, value: Value) -> Value:
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor | Source) for v in value):
        return [run.tensor(v) for v in value]
    return run.tensor(value) if isinstance(value, Source) else value


def _parts(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    """chunk, split, unbind: parts along a channel dimension must stay equally long."""
    given = _arguments(target, args, kwargs)
    x, dim = run.tensor(given["self"]), int(given.get("dim", 0))
    parts = target(x, *[_labels(run, a) for a in args[1:]], **kwargs)
    if dim % x.ndim in run.space.varying(x):
        if len({p.shape for p in parts}) > 1:
            raise Unknown("parts of unequal size are cut out of the channels")
        for part in parts[1:]:
            run.space.union(parts[0], part)
    return tuple(uniform(p) for p in parts)


def _unless_channels(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    """Positions are written into forward (slice, select, roll): fine along all but channels."""
    given = _arguments(target, args, kwargs)
    x = run.tensor(given["self"])
    dims = given.get("dim", given.get("dims"))
    dims = {int(d) % x.ndim for d in (dims if isinstance(dims, list | tuple) else [dims])}
    if dims & set(run.space.varying(x)) and not _whole_slice(target, x, out):
        raise Unknown("takes channels at positions written in forward")
    return uniform(target(x, *[_labels(run, a) for a in args[1:]], **kwargs))


def _whole_slice(target: Any, x: Tensor, out: Tensor) -> bool:
    return target.overloadpacket.__name__ in ("slice", "narrow") and x.shape == out.shape


def _spatial(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    """Pooling and resampling: every channel by itself; trailing dimensions change size."""
    x = run.tensor(args[0])
    results = out if isinstance(out, list | tuple) else [out]
    changed = next((d for d in range(x.ndim) if x.shape[d] != results[0].shape[d]), x.ndim)
    changed = min(changed, 2 if x.ndim > 2 else x.ndim)
    if any(d >= changed for d in run.space.varying(x)):
        raise Unknown("channels are laid out in space")
    small = x[tuple(slice(None) if d < changed else slice(0, 1) for d in range(x.ndim))]
    labels = tuple(small.expand(r.shape) for r in results)
    return labels if isinstance(out, list | tuple) else labels[0]


def _pad(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    """Spatial padding keeps the channels; zero channels that are added belong to none."""
    given = _arguments(target, args, kwargs)
    x = run.tensor(given["self"])
    padded = [d for d in range(x.ndim) if x.shape[d] != out.shape[d]]
    if not set(padded) & set(run.space.varying(x)):
        index = tuple(slice(0, 1) if d in padded else slice(None) for d in range(x.ndim))
        return x[index].expand(out.shape)
    if given.get("mode", "constant") != "constant":
        raise Unknown("channels are padded by mirroring")
    return uniform(torch.nn.functional.pad(x, list(given["pad"]), value=CONSTANT))


def _reduction(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    """mean, sum, max, softmax: over space the channels stay; over channels they are mixed."""
    given = _arguments(target, args, kwargs)
    x = run.tensor(given["self"])
    over = given.get("dim")
    over = list(range(x.ndim)) if over in (None, []) else over
    dims = {int(d) % x.ndim for d in (over if isinstance(over, list | tuple) else [over])}
    if dims & set(run.space.varying(x)):
        raise Unknown("mixes channels")
    results = out if isinstance(out, list | tuple) else [out]
    if results[0].ndim == x.ndim:
        index = tuple(slice(0, 1) if d in dims else slice(None) for d in range(x.ndim))
    else:
        index = tuple(0 if d in dims else slice(None) for d in range(x.ndim))
    labels = tuple(x[index].expand(r.shape) for r in results)
    return labels if isinstance(out, list | tuple) else labels[0]


def _mixes(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    raise Unknown("mixes channels")


def _item(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    return args[0][args[1]]


def _nothing(
    run: Interpreter, target: Any, args: tuple[Value, ...], kwargs: dict[str, Value], out: Any
) -> Value:
    return None


def _table(*rows: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows for name in names.split()}


RULES: dict[str, Rule] = _table(
    (_convolution, "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
    (_linear, "linear"),
    (_per_channel("weight", "bias", "running_mean", "running_var"), "batch_norm instance_norm"),
    (_per_channel("weight"), "prelu"),
    (_same, "dropout dropout_ feature_dropout alpha_dropout contiguous clone detach alias to _to_copy "
            "type_as lift_fresh_copy detach_ celu celu_"),
    (_creation, "zeros ones full arange empty zeros_like ones_like full_like scalar_tensor "
                "new_zeros new_ones new_full linspace rand randn"),
    (_movement, "view reshape _unsafe_view permute transpose t unsqueeze squeeze flatten unflatten "
                "expand expand_as repeat cat concat stack pixel_shuffle pixel_unshuffle movedim swapaxes "
                "channel_shuffle ravel mT"),
    (_parts, "chunk split unbind split_with_sizes"),
    (_unless_channels, "slice select narrow index_select flip roll"),
    (_spatial, "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
               "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
               "adaptive_max_pool3d max_pool2d_with_indices upsample_nearest1d upsample_nearest2d "
               "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d "
               "upsample_bicubic2d lp_pool2d"),
    (_pad, "pad constant_pad_nd reflection_pad2d replication_pad2d"),
    (_reduction, "mean sum amax amin max min var std softmax log_softmax logsumexp prod norm"),
    (_mixes, "layer_norm group_norm matmul bmm scaled_dot_product_attention copy_"),
    (_item, "getitem"),
    (_nothing, "_assert_tensor_metadata _assert_scalar sym_constrain_range_for_size"),
)  # fmt: skip
