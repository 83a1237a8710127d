"""Which rule an ATen operator follows.

Operators fall into a few kinds: layers (read channels, make new ones), element-wise (join what
meets), movement (applied to the labels as they are), spatial (local in space, channels pass
through), reductions. An operator that is none of these freezes the channels that reach it.
"""

import operator

import torch

from amc.graph.interpreter import Labeller, Op, Rule, Unknown, Value, dynamic
from amc.graph.layer_rules import convolution, group_norm, layer_norm, linear, per_channel
from amc.graph.shape_rules import (
    constant,
    dropout,
    glu,
    mixes,
    movement,
    nothing,
    pad,
    parts,
    pointwise,
    positions,
    reduction,
    same,
    shuffle,
    spatial,
)


def execute(run: Labeller, op: Op) -> Value:
    """Labels of the operator's result.

    Raises:
        Unknown: there is no rule for it, or not for this use.
    """
    if op.target is operator.getitem:
        return op.args[0][op.args[1]]
    if dynamic(op.out) or any(dynamic(a) for a in (*op.args, *op.kwargs.values())):
        raise Unknown("has a size that depends on the data")
    rule = RULES.get(op.name)
    if rule is None and torch.Tag.pointwise in getattr(op.target, "tags", ()):
        rule = pointwise
    if rule is None:
        raise Unknown("is not known")
    return rule(run, op)


def costs_nothing(op: Op) -> bool:
    """Whether the operator surely does no multiply-accumulates that are counted."""
    return RULES.get(op.name, mixes) not in (convolution, linear, mixes)


def _table(*rows: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows for name in names.split()}


RULES: dict[str, Rule] = _table(
    (convolution, "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
    (linear, "linear"),
    (per_channel("weight", "bias", "running_mean", "running_var"), "batch_norm instance_norm"),
    (per_channel("weight"), "prelu"),
    (group_norm, "group_norm"),
    (layer_norm, "layer_norm rms_norm"),
    (
        pointwise,
        "celu celu_ hardswish hardswish_ log_sigmoid mish_ relu6_ where",
    ),  # not all tagged
    (
        same,
        "contiguous clone detach detach_ alias to _to_copy type_as lift_fresh_copy",
    ),
    (dropout, "dropout dropout_ feature_dropout feature_dropout_ alpha_dropout"),
    (
        constant,
        "zeros ones full arange empty zeros_like ones_like full_like scalar_tensor new_zeros "
        "new_ones new_full linspace rand randn",
    ),
    (
        movement,
        "view reshape _unsafe_view permute transpose t unsqueeze squeeze flatten unflatten expand "
        "expand_as repeat repeat_interleave tile cat concat concatenate stack hstack vstack "
        "dstack column_stack pixel_shuffle pixel_unshuffle movedim moveaxis swapaxes swapdims "
        "ravel mT view_as reshape_as atleast_3d broadcast_to",
    ),
    (parts, "chunk split unbind split_with_sizes tensor_split unsafe_chunk"),
    (glu, "glu"),
    (shuffle, "channel_shuffle"),
    (positions, "slice select narrow index_select flip roll"),
    (
        spatial,
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
        "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d max_pool2d_with_indices upsample_nearest1d upsample_nearest2d "
        "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d "
        "upsample_bicubic2d _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa lp_pool2d",
    ),
    (
        pad,
        "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d",
    ),
    (
        reduction,
        "mean sum amax amin max min var std softmax log_softmax logsumexp prod linalg_vector_norm",
    ),
    (mixes, "matmul bmm scaled_dot_product_attention copy_"),
    (nothing, "_assert_tensor_metadata _assert_scalar sym_constrain_range_for_size"),
)
