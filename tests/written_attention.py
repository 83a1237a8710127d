"""Attention as people write it: sizes are read off the input of the module."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS = 24, 6


class Packed(nn.Module):
    """Vision transformers of before 2025."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.scale = (WIDTH // HEADS) ** -0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.attn_drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = self.attn_drop(attn.softmax(dim=-1))
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class Fused(Packed):
    """The same with fused attention; nothing is said of training twice."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, c = x.size()
        d = c // self.num_heads
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (y.view(b, n, self.num_heads, d).transpose(1, 2) for y in (q, k, v))
        dropped = self.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped)
        return self.proj(y.transpose(1, 2).contiguous().view(b, n, c))


class Language(nn.Module):
    """Transformers of language: -1 is the length, the width is split by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.n_head = HEADS
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, width = x.size(0), x.size(-1)
        q, k, v = self.c_attn(x).split(width, dim=2)
        q = q.view(batch, -1, self.n_head, width // self.n_head).transpose(1, 2)
        k = k.view(batch, -1, self.n_head, width // self.n_head).transpose(1, 2)
        v = v.view(batch, -1, self.n_head, width // self.n_head).transpose(1, 2)
        weights = F.softmax(torch.matmul(q, k.mT) / (width // self.n_head) ** 0.5, dim=-1)
        mixed = torch.matmul(weights, v)
        return self.c_proj(mixed.transpose(1, 2).contiguous().view(batch, -1, width))


class Reduced(nn.Module):
    """Pyramid vision transformers: keys and values of a smaller map."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.sr, self.proj = nn.Conv2d(WIDTH, WIDTH, 2, 2), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        x_ = x.permute(0, 2, 1).reshape(B, C, 2, 2)
        x_ = self.sr(x_).reshape(B, C, -1).permute(0, 2, 1)
        kv = self.kv(x_).reshape(B, -1, 2, self.num_heads, C // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4)
        attn = (q @ k.transpose(-2, -1)) * (C // self.num_heads) ** -0.5
        x = (attn.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class Maps(nn.Module):
    """Tokens that lie in a square, and heads taken out by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.__heads = HEADS
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def heads(self, x: Tensor) -> Tensor:
        C = x.shape[-1]
        return x.unflatten(-1, (self.__heads, C // self.__heads)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(len(x), 2, 2, -1)
        B, H, W, C = tokens.shape
        q, k, v = map(self.heads, self.qkv(tokens).reshape(B, H * W, -1).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(torch.reshape(y, (B, H, W, C))).flatten(1, 2)


class Derived(Packed):
    """Calls what it is derived from."""

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        return super().forward(x).softmax(-1).reshape(B, N, C)


ATTENTION: Mapping[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (Packed, Fused, Language, Reduced, Maps)
}
