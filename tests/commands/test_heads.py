"""Heads of attention and channels in one run, from the search to the files that it leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import amc
from amc.models.catalog import build
from small_runs import report_of


def loader() -> DataLoader[Any]:
    torch.manual_seed(0)
    images, labels = torch.randn(48, 1, 8, 8), torch.arange(48) % 4
    return DataLoader(TensorDataset(images, labels), batch_size=24)


@pytest.mark.slow
def test_an_agent_shares_out_a_budget_among_heads_and_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("vit", num_classes=4, in_channels=1, width=0.34)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = amc.compress(
        model, loader(), loader(), preserve_ratio=0.5, target="channels,heads", episodes=8,
        warmup_episodes=3, finetune_epochs=1, calibration_batches=2, export="onnx", quiet=True,
        channel_multiple=1, run_dir=tmp_path / "run",
    )  # fmt: skip
    found = report_of(tmp_path / "run")
    assert 0.3 < found["macs"]["ratio"] <= 0.5
    layers = {one["name"]: one for one in found["layers"]}
    kept = [layers[f"blocks.{n}.attention.query"]["heads"]["pruned"] for n in range(4)]
    assert all(heads in (1, 2) for heads in kept)
    for block, heads in zip(result.model.blocks, kept, strict=True):
        inner = {layer.out_features for layer in (block.attention.query, block.attention.value)}
        assert inner == {block.attention.out.in_features} == {16 * heads}
    assert found["exports"][0]["error"] <= 1e-4
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())
    loaded = amc.load_pruned(model, tmp_path / "run").eval()
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        np.testing.assert_array_equal(loaded(x), result.model.eval()(x))
