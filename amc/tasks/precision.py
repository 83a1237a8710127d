"""How a GPU computes: the same bits every time; and in 32 bits, where numbers are compared.

By default PyTorch rounds what convolutions of a GPU multiply to 10 bits (TF32). A rightly cut
network then differs from the masked one by up to 1e-3 of its output, as a wrongly cut one may, and
statistics are others than on the CPU. And cuDNN may add up gradients in any order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

cuda: Any = torch.backends.cuda  # whose types do not know all settings
cudnn: Any = torch.backends.cudnn

FULL = "ieee"
"""PyTorch's name for 32-bit numbers that are multiplied as such."""


@contextmanager
def repeatable() -> Iterator[None]:
    """Inside, convolutions give the same bits every time; also a decorator."""
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def precise() -> Iterator[None]:
    """Inside, 32-bit numbers are besides multiplied in 32 bits; also a decorator."""
    convolutions, products = _convolutions(), _products()
    _compute(convolutions=(FULL, FULL), products="highest" if products[0] else FULL)
    try:
        with repeatable():
            yield
    finally:
        _compute(convolutions, products[0] or products[1])


def _convolutions() -> tuple[str, str]:
    """Of convolutions and of recurrent layers, whichever of PyTorch's interfaces has set them."""
    return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


def _products() -> tuple[str, str]:
    """Of matrix products: by the older interface, empty if the newer one was used, and by this."""
    try:
        return torch.get_float32_matmul_precision(), cuda.matmul.fp32_precision
    except RuntimeError:  # the older one cannot say what the newer one was told
        return "", cuda.matmul.fp32_precision


def _compute(convolutions: tuple[str, str], products: str) -> None:
    # first by the older interface, which other code may ask, then by the newer one
    cudnn.allow_tf32 = convolutions == ("tf32", "tf32")
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = convolutions
    if products in _products():
        return
    if products in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(products)
    else:
        cuda.matmul.fp32_precision = products
