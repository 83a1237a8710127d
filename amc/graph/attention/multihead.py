"""`nn.MultiheadAttention` with fewer heads than its width has room for.

PyTorch's own forward insists that the projections are as wide as the input: heads that are removed
leave a module that it refuses. The module here computes the same with whatever is left; it takes
the place of PyTorch's where tensors were cut, and only there.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES = ("embed_dim", "kdim", "vdim", "num_heads")
"""Attributes that follow the tensors, see `fit`; ``head_dim`` never changes."""


class CutAttention(nn.MultiheadAttention):
    """Attention with ``num_heads`` heads of ``head_dim`` channels, any number of them.

    Names of tensors, arguments and results are those of `nn.MultiheadAttention`, of which it is
    one; ``embed_dim`` is the width of the queries. Nested tensors are taken as PyTorch's does. It
    is never constructed: `fit` makes it of PyTorch's.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> attention, x = nn.MultiheadAttention(32, 4, batch_first=True), torch.randn(2, 7, 32)
        >>> rows = torch.arange(96).view(3, 4, 8)[:, :3].flatten()  # the first three heads
        >>> attention.in_proj_weight = nn.Parameter(attention.in_proj_weight[rows].detach())
        >>> attention.in_proj_bias = nn.Parameter(attention.in_proj_bias[rows].detach())
        >>> attention.out_proj.weight = nn.Parameter(attention.out_proj.weight[:, :24].detach())
        >>> fit(attention)
        >>> attention.num_heads, attention(x, x, x)[0].shape
        (3, torch.Size([2, 7, 32]))
    """

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """Never: PyTorch's encoder layers then keep off kernels that take the widths for equal."""
        return False

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        """What old files say does not matter."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        if query.is_nested:
            return self._of_nested(query, key, value, need_weights, average_attn_weights)
        batched, first = query.dim() == 3, self.batch_first and query.dim() == 3
        if not batched:
            query, key, value = _each(lambda x: x.unsqueeze(1), query, key, value)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        if first:
            query, key, value = _each(lambda x: x.transpose(0, 1), query, key, value)
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal needs an attn_mask")
        q, k, v = self._heads(query, key, value)
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = self._mask(None if causal else attn_mask, key_padding_mask, q, len(key))
        if mask is not None and mask.shape[-1] < k.shape[2]:  # nothing hides what was added
            mask = F.pad(mask, (0, k.shape[2] - mask.shape[-1]))
        dropout, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = (q * math.sqrt(1 / self.head_dim)) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        out = self._joined(mixed)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if batched:
            return out.transpose(0, 1) if first else out, weights
        return out.squeeze(1), None if weights is None else weights.squeeze(0)

    def _joined(self, mixed: Tensor) -> Tensor:
        """The results of heads [N, heads, L, head_dim], projected: [L, N, width].

        The rows come to the projection in the order in which PyTorch's forward gives them to it:
        they are compared with those of the whole module.
        """
        rows = mixed.permute(2, 0, 1, 3)
        out = F.linear(rows.flatten(2).flatten(0, 1), self.out_proj.weight, self.out_proj.bias)
        return out.view(*rows.shape[:2], -1)

    def extra_repr(self) -> str:
        """The sizes, which do not follow from each other any more."""
        return f"{self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [N, heads, L, head_dim] of what lies [L, N, E]."""
        bias = self.in_proj_bias
        if self.in_proj_weight is not None and query is key and key is value:
            q, k, v = F.linear(query, self.in_proj_weight, bias).chunk(3, -1)
        else:
            packed = self.in_proj_weight
            own = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            weights = own if packed is None else packed.chunk(3)
            biases = (None, None, None) if bias is None else bias.chunk(3)
            given = zip((query, key, value), weights, biases, strict=True)
            q, k, v = (F.linear(x, weight, part) for x, weight, part in given)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(-1, k.shape[1], -1)])
            v = torch.cat([v, self.bias_v.expand(-1, v.shape[1], -1)])
        if self.add_zero_attn:
            k, v = (torch.cat([x, x.new_zeros(1, *x.shape[1:])]) for x in (k, v))
        q, k, v = (_split(x, self.head_dim) for x in (q, k, v))
        return q, k, v

    def _mask(
        self, attn: Tensor | None, padding: Tensor | None, queries: Tensor, length: int
    ) -> Tensor | None:
        """Both masks as one to be added to scores [samples, heads, queries, length]."""
        samples, heads, rows, _ = queries.shape
        if attn is not None:
            expected = (rows, length) if attn.dim() == 2 else (samples * heads, rows, length)
            if attn.shape != expected:
                raise RuntimeError(
                    f"attn_mask has shape {tuple(attn.shape)}, {expected} was expected"
                )
            attn = _added(attn, queries).view(-1, heads if attn.dim() == 3 else 1, rows, length)
        if padding is None:
            return attn
        padding = _added(padding, queries)[:, None, None]
        return padding if attn is None else attn + padding

    def _of_nested(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, average: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention of sequences of several lengths, which are padded and hidden."""
        if query is not key or key is not value:
            raise AssertionError("nested tensors are for self-attention")
        lengths = [len(one) for one in query.unbind()]
        x = query.to_padded_tensor(0.0)
        places = torch.arange(x.shape[1], device=x.device)
        padding = places >= torch.tensor(lengths, device=x.device)[:, None]
        out, weights = self.forward(x, x, x, padding, need_weights, None, average)
        rows = [one[:length] for one, length in zip(out, lengths, strict=True)]
        return torch.nested.as_nested_tensor(rows), weights


def fit(module: nn.MultiheadAttention) -> None:
    """Makes class and attributes agree with the tensors, in place.

    Sub-classes with a forward of their own are left alone.
    """
    if type(module) not in (nn.MultiheadAttention, CutAttention):
        return
    packed = module.in_proj_weight
    if packed is None:
        weight = module.q_proj_weight
        inner = weight.shape[0]
        module.kdim, module.vdim = module.k_proj_weight.shape[1], module.v_proj_weight.shape[1]
    else:
        weight, inner = packed, packed.shape[0] // 3
        module.kdim = module.vdim = weight.shape[1]
    module.embed_dim, module.num_heads = weight.shape[1], inner // module.head_dim
    whole = inner == module.embed_dim
    module.__class__ = nn.MultiheadAttention if whole else CutAttention


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """The mask as numbers to be added: minus infinity where a mask of truth values hides."""
    if mask.is_floating_point():
        return mask
    if mask.dtype is not torch.bool:
        raise AssertionError("masks hold truth values or floating-point numbers")
    hidden = torch.zeros_like(mask, dtype=like.dtype)
    return hidden.masked_fill(mask, float("-inf"))


def _each(
    change: Callable[[Tensor], Tensor], query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Three tensors changed; the same ones stay the same."""
    moved = {id(x): change(x) for x in (query, key, value)}
    return moved[id(query)], moved[id(key)], moved[id(value)]


def _split(x: Tensor, width: int) -> Tensor:
    """[L, N, heads x width] as [N, heads, L, width]."""
    return x.view(*x.shape[:2], -1, width).permute(1, 2, 0, 3)
