"""A small vision transformer for small images (Dosovitskiy et al. 2021).

Convolutions make the tokens (Xiao et al. 2021), so that few images and SGD are enough to learn
from; and tokens are averaged at the end, there is no class token (Beyer et al. 2022).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_

GRID = 4
"""Tokens along each side of an image, whatever its size."""

DEPTH, HEADS, HEAD, EXPANSION = 4, 6, 16, 2
"""Blocks; heads of each, channels of a head; the width of the MLP over that of the network."""


class Attention(nn.Module):
    """Multi-head self-attention; how many heads there are is what the layers' sizes say."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, dim] -> [B, tokens, dim]."""
        query, key, value = (_heads(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def _heads(x: Tensor) -> Tensor:
    """[B, tokens, heads * HEAD] -> [B, heads, tokens, HEAD]."""
    return x.reshape(*x.shape[:2], -1, HEAD).transpose(1, 2)


class Block(nn.Module):
    """Attention between the tokens, then an MLP on each; their inputs are normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp1, self.mlp2 = nn.Linear(dim, EXPANSION * dim), nn.Linear(EXPANSION * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, tokens, dim] -> [B, tokens, dim]."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp2(F.gelu(self.mlp1(self.norm2(x))))
        return out


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _tokens(x: Tensor) -> Tensor:
    """[B, dim, H, W], nowhere negative -> maxima of `GRID` x `GRID` parts, [B, tokens, dim]."""
    high, wide = -x.shape[2] % GRID, -x.shape[3] % GRID
    if high or wide:  # zeros change no maximum
        x = F.pad(x, (0, wide, 0, high))
    x = F.max_pool2d(x, (x.shape[2] // GRID, x.shape[3] // GRID))
    return x.flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Tokens with learned positions, blocks of attention, and a classifier of the tokens' mean."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        dim = HEAD * max(1, round(HEADS * width))
        self.stem = nn.Sequential(
            _conv(in_channels, dim // 4, 2), _conv(dim // 4, dim // 2, 2), _conv(dim // 2, dim, 1)
        )
        self.positions = nn.Parameter(torch.zeros(1, GRID**2, dim))
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, num_classes)
        trunc_normal_(self.positions, std=0.02)
        for layer in self.modules():  # blocks begin as constants, and learn far faster
            if isinstance(layer, Attention | Block):
                zeros_((layer.out if isinstance(layer, Attention) else layer.mlp2).weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> logits [B, num_classes]."""
        x = _tokens(self.stem(x)) + self.positions
        x = self.norm(self.blocks(x))
        logits: Tensor = self.fc(x.mean(1))
        return logits


def vit(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> VisionTransformer:
    """A vision transformer of 24 heads: 8.4 MMACs at 32 x 32, 0.36 M parameters."""
    return VisionTransformer(num_classes, in_channels, width)
