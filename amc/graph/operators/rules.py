"""Which rule an ATen operator follows.

Operators fall into a few kinds: layers (read channels, make new ones), element-wise (join what
meets), movement (applied to the labels as they are), spatial (local in space, channels pass
through), reductions. An operator that is none of these freezes the channels that reach it.
"""

import operator

from amc.graph.capture.moves import is_pointwise
from amc.graph.operators.attention_rules import attention
from amc.graph.operators.interpreter import Labeller, Rule
from amc.graph.operators.layer_rules import (
    convolution,
    group_norm,
    layer_norm,
    linear,
    per_channel,
)
from amc.graph.operators.operands import Op, Unknown, Value, dynamic
from amc.graph.operators.pointwise_rules import (
    alike,
    constant,
    copied,
    dropout,
    filled,
    picked_out,
    pointwise,
    same,
)
from amc.graph.operators.product_rules import (
    added_product,
    einsum,
    matmul,
    mixes,
    reduction,
    tensordot,
)
from amc.graph.operators.recurrent_rules import cell, embedding, recurrent
from amc.graph.operators.shape_rules import (
    gathered,
    glu,
    indexed,
    movement,
    parts,
    positions,
    replaced,
    shuffle,
)
from amc.graph.operators.space_rules import (
    fold,
    pad,
    sampled,
    spatial,
    transformed,
    unfold,
    unpooled,
    windows,
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
    if rule is None and is_pointwise(op.target):
        rule = pointwise
    if rule is None:
        raise Unknown("is not known")
    return rule(run, op)


def costs_nothing(op: Op) -> bool:
    """Whether the operator surely does no multiply-accumulates that are counted."""
    return RULES.get(op.name, mixes) not in COSTLY


def nothing(run: Labeller, op: Op) -> Value:
    """Checks that leave no value behind."""
    return None


def placed(run: Labeller, op: Op) -> Value:
    """affine_grid: positions for all channels alike."""
    run.give_up(op.args[0], f"{op.name} makes positions of it{run.place}")
    run.counted = False
    return constant(run, op)


COSTLY = (
    added_product, attention, cell, convolution, einsum, linear, matmul, mixes, recurrent,
    tensordot,
)  # fmt: skip
"""Rules of operators that multiply and accumulate."""


def _table(*rows: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows for name in names.split()}


CONVOLUTIONS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"

LAYERS = (*CONVOLUTIONS.split(), "linear")
"""Operators that the table of a graph lists even when their channels cannot be followed."""

RULES: dict[str, Rule] = _table(
    (convolution, CONVOLUTIONS),
    (linear, "linear"),
    (per_channel("weight", "bias", "running_mean", "running_var"), "batch_norm instance_norm"),
    (per_channel("weight"), "prelu"),
    (group_norm, "group_norm"),
    (layer_norm, "layer_norm rms_norm"),
    (
        pointwise,
        "complex polar celu celu_ hardswish hardswish_ log_sigmoid mish_ relu6_ where",
    ),  # not all tagged
    (
        same,
        "contiguous clone detach detach_ alias to _to_copy type_as lift_fresh_copy bernoulli_ "
        "uniform_ normal_ random_ exponential_ real imag conj resolve_conj resolve_neg",
    ),
    (alike, "zeros_like ones_like full_like empty_like rand_like randn_like"),
    (filled, "fill_ zero_ fill zero"),
    (copied, "copy_ copy"),
    (picked_out, "index_put index_put_"),
    (dropout, "dropout dropout_ feature_dropout feature_dropout_ alpha_dropout"),
    (
        constant,
        "zeros ones full arange empty eye scalar_tensor new_zeros new_ones new_full new_empty "
        "linspace rand randn",
    ),
    (
        movement,
        "view reshape _unsafe_view permute transpose t unsqueeze squeeze flatten unflatten expand "
        "expand_as repeat repeat_interleave tile cat concat concatenate stack hstack vstack "
        "dstack column_stack pixel_shuffle pixel_unshuffle movedim moveaxis swapaxes swapdims "
        "ravel mT adjoint numpy_T view_as reshape_as atleast_3d broadcast_to view_as_real "
        "view_as_complex",
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
        "mean sum nansum amax amin max min var std softmax log_softmax logsumexp prod argmax "
        "argmin linalg_vector_norm linalg_norm norm frobenius_norm",
    ),
    (matmul, "matmul mm bmm mv dot linalg_matmul"),
    (added_product, "addmm baddbmm addmv"),
    (tensordot, "tensordot"),
    (einsum, "einsum"),
    (attention, "scaled_dot_product_attention"),
    (recurrent, "lstm gru rnn_tanh rnn_relu"),
    (cell, "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
    (embedding, "embedding"),
    (indexed, "index"),
    (gathered, "gather"),
    (replaced, "slice_scatter select_scatter"),
    (unfold, "im2col"),
    (fold, "col2im"),
    (windows, "unfold"),
    (sampled, "grid_sampler grid_sampler_2d grid_sampler_3d"),
    (placed, "affine_grid_generator"),
    (unpooled, "max_unpool2d max_unpool3d"),
    (
        transformed,
        "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 "
        "fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift cumsum "
        "cumprod cummax cummin logcumsumexp sort topk",
    ),
    (nothing, "_assert_tensor_metadata _assert_scalar sym_constrain_range_for_size"),
)
