"""Weights of a bundled network for the package: half the bytes, and what the rounding costs.

    python experiments/ship.py mobilenet_v2 0.25 glyphs [WEIGHTS]

Rounds weights to float16 (of WEIGHTS, or trained here by the recipe of the data), measures the
network with and without that on the test images, and writes them where `amc.models.pretrained`
looks for them. Refuses files above `MOST_BYTES` and roundings that change the accuracy by more
than `MOST_LOST`.
"""

import argparse
import copy
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from amc.data import load_data
from amc.models.catalog import build
from amc.models.checkpoint import load_checkpoint
from amc.models.pretrained import pretrained, shipped
from amc.runtime.errors import AmcError
from amc.runtime.files import write_atomically
from amc.tasks.evaluate import evaluate

MOST_BYTES = 2_000_000
"""Of one file of the package."""

MOST_LOST = 0.001
"""Part of the test images that rounding may move in or out of the right class."""


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float16, counters as they are.

    Raises:
        AmcError: one is too large for it.
    """
    found = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise AmcError(f"{name}: too large for float16")
    return {name: tensor.contiguous() for name, tensor in found.items()}


def halved(network: nn.Module) -> nn.Module:
    """A copy with the weights that it has once they were rounded."""
    copied = copy.deepcopy(network)
    copied.load_state_dict(rounded(network.state_dict()))
    return copied


def main() -> None:
    """One network."""
    parser = argparse.ArgumentParser(description="Weights of a bundled network for the package.")
    parser.add_argument("model")
    parser.add_argument("width", type=float)
    parser.add_argument("data")
    parser.add_argument("weights", type=Path, nargs="?")
    given = parser.parse_args()
    data = load_data(given.data, seed=0)
    if given.weights is None:
        network = pretrained(given.model, given.width, data)[0]
    else:
        built = build(
            given.model,
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            width=given.width,
        )
        network = load_checkpoint(built, given.weights)
    network.eval()
    before, after = (evaluate(n, data.test).accuracy for n in (network, halved(network)))
    content = save(rounded(network.state_dict()), {"trained_by": "amc-pruning, Apache-2.0"})
    path = shipped(given.model, given.width, data.name)
    print(f"{path.name}: {len(content):,} bytes, test {before:.2%}, rounded {after:.2%}")
    if abs(after - before) > MOST_LOST:
        raise AmcError(f"{path.name}: rounding to float16 changes the accuracy too much")
    if len(content) >= MOST_BYTES:
        raise AmcError(f"{path.name}: must be below {MOST_BYTES:,} bytes")
    write_atomically(path, content)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
