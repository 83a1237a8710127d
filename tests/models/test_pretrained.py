"""The weights that come with the package."""

import re

import pytest
import torch
from safetensors import safe_open

from amc.models.catalog import build
from amc.models.checkpoint import load_checkpoint
from amc.models.pretrained import shipped
from amc.runtime import weights

MOST_BYTES = 2_000_000
FOLDER = shipped("resnet20", 1, "glyphs").parent
CLASSES = {"glyphs": (62, 3), "fashion-mnist": (10, 1)}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_shipped_weights_are_small_and_those_of_their_network(name: str) -> None:
    match = re.fullmatch(r"(\w+?)(?:-x([\d.]+))?-(glyphs|fashion-mnist)\.safetensors", name)
    assert match
    model, width, data = match[1], float(match[2] or 1), match[3]
    path = shipped(model, width, data)
    assert path.name == name and path.stat().st_size < MOST_BYTES
    classes, channels = CLASSES[data]
    network = build(model, num_classes=classes, in_channels=channels, width=width)
    load_checkpoint(network, path)
    for key, tensor in weights.read(path).items():
        own = network.state_dict()[key]
        assert own.dtype == (torch.float32 if tensor.is_floating_point() else torch.int64)
        assert torch.equal(own, tensor.to(own.dtype))  # float16 in float32: exactly
    with safe_open(path, "pt") as file:
        assert "amc-pruning" in (file.metadata() or {}).get("trained_by", "")
