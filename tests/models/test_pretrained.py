"""The weights that come with the package."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from amc.data import Data, TensorLoader, load_data
from amc.models.catalog import build
from amc.models.checkpoint import load_checkpoint
from amc.models.pretrained import by_steps, pretrained, shipped
from amc.runtime import weights
from amc.training.recipe import Recipe
from strict_device import reachable

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


def tiny(images: int = 4) -> Data:
    loader = TensorLoader(torch.rand(images, 1, 8, 8), torch.arange(images) % 2, batch_size=2)
    digits = load_data("digits")
    return replace(digits, name="tiny", train=loader, num_classes=2, input_shape=(1, 8, 8))


def test_what_has_to_be_trained_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMC_CACHE", str(tmp_path))
    lines: list[str] = []
    first, source = pretrained(
        "resnet20", 0.1, tiny(), recipe=Recipe(2, 0.01), on_start=lines.append
    )
    assert source.startswith("trained now, kept in")
    expected = "training resnet20-x0.1-tiny from nothing: 2 epochs, 4 steps; kept in "
    assert len(lines) == 1 and lines[0].startswith(f"{expected}{tmp_path / 'weights'} for later")
    again, source = pretrained(
        "resnet20", 0.1, tiny(), recipe=Recipe(2, 0.01), on_start=lines.append
    )
    assert source.startswith("trained earlier") and len(lines) == 1
    assert weights.digest(first) == weights.digest(again)


@pytest.mark.parametrize(("images", "epochs"), [(4, 30), (1000, 10), (1002, 10), (12000, 1)])
def test_large_sets_are_trained_on_for_so_many_steps(images: int, epochs: int) -> None:
    assert by_steps(tiny(images)).epochs == epochs


def test_networks_are_trained_where_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMC_CACHE", str(tmp_path))
    with reachable(monkeypatch):
        for _ in "trained", "known":
            model, _ = pretrained(
                "resnet20", 0.1, tiny(), recipe=Recipe(1, 0.01), device=torch.device("lazy")
            )
            assert {held.device.type for held in model.state_dict().values()} == {"lazy"}
