"""``python -m amc.export`` and ``amc.train --export``: files from a run folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn

import amc
from amc.config.command_line import parse
from amc.config.run_folders import ExportConfig
from amc.config.train import TrainConfig
from amc.export import run as export_run
from amc.exporters.export import Export
from amc.exporters.verification import DifferentError
from amc.runs import exports
from amc.runtime.errors import AmcError
from amc.runtime.user_code import load_function
from amc.sparsity.masks import attach, masks_of
from amc.train import run
from small_runs import report_of


def exported(folder: Path, **given: Any) -> Export:
    return export_run(ExportConfig.of(run=folder, quiet=True, **given))


def left_by(folder: Path, tiny: dict[str, Any]) -> nn.Module:
    original = load_function(tiny["model"])(num_classes=10, in_channels=1)
    return amc.load_pruned(original, folder).eval()


def equal(file: Path, model: nn.Module) -> bool:
    x = torch.randn(3, 1, 16, 16)
    session = onnxruntime.InferenceSession(file)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return bool(np.allclose(found, model(x).detach(), rtol=1e-3, atol=1e-4))


def test_a_run_is_exported_with_its_own_settings_and_its_report_says_so(
    undisturbed: Callable[..., Path], tiny: dict[str, Any]
) -> None:
    folder = undisturbed(mode="uniform", export="onnx, pt2")
    first, second = report_of(folder)["exports"]
    assert (first["file"], second["file"]) == ("pruned.onnx", "pruned.pt2")
    assert 0 <= first["error"] <= first["tolerance"] and first["int8"] is None
    assert first["bytes"] == (folder / "pruned.onnx").stat().st_size
    model = left_by(folder, tiny)
    assert equal(folder / "pruned.onnx", model)

    (folder / "pruned.onnx").write_text("older")
    written = exported(folder)
    assert written.file == folder / "pruned.onnx" and equal(written.file, model)
    names = [one["file"] for one in report_of(folder)["exports"]]
    assert names == ["pruned.pt2", "pruned.onnx"]
    written = exported(folder, int8=True)
    assert written.file == folder / "pruned.int8.onnx" and written.int8
    assert abs(written.int8["accuracy"] - written.int8["float_accuracy"]) < 0.1
    assert report_of(folder)["exports"][-1]["int8"]["latency_ms"] > 0
    elsewhere = folder.parent / "elsewhere.pt"
    exported(folder, format="state_dict", output=elsewhere)
    assert torch.load(elsewhere, weights_only=True).keys() == model.state_dict().keys()
    assert len(report_of(folder)["exports"]) == 3  # of what lies in the folder


def test_a_failed_export_ends_the_command_after_all_else_is_written(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*given: object) -> None:
        raise DifferentError("the outputs differ")

    monkeypatch.setattr(exports, "write", differs)
    settings = {**tiny, "mode": "uniform", "finetune_epochs": 0, "export": "onnx"}
    with pytest.raises(AmcError, match="--export onnx: the outputs differ; the run is complete"):
        run(TrainConfig.of(run_dir=tmp_path, **settings))
    report = report_of(tmp_path)
    assert report["exports"] == [{"format": "onnx", "problem": "the outputs differ"}]
    assert report["macs"]["ratio"] <= 0.5 and (tmp_path / "pruned.safetensors").exists()
    assert not list(tmp_path.glob("*.onnx"))
    with pytest.raises(AmcError, match="the outputs differ"):
        exported(tmp_path)


def test_folders_that_hold_no_nameable_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AmcError, match=r"nowhere: there is no run \(no config.json\)"):
        exported(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"command": "amc.compress"}')
    with pytest.raises(AmcError, match=r"given in Python; there: amc.export\(amc.load_pruned"):
        exported(tmp_path)
    (tmp_path / "config.json").write_text('{"command": "amc.learn"}')
    with pytest.raises(AmcError, match=r"made by amc.learn; expected a run of amc.train or"):
        exported(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x", "--format", "onx"], "--format 'onx': allowed are .* did you mean onnx"),
        (["x", "--format", "pt2", "--int8"], "--int8 goes with --format onnx, not with pt2"),
        (["x", "--output", "."], "--output .: is a folder, expected a file"),
    ],
)
def test_mistakes_are_said_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(AmcError, match=said):
        parse(ExportConfig, "amc.export", words)


def test_unknown_formats_are_refused_before_anything_runs() -> None:
    with pytest.raises(AmcError, match=r"--export 'onx' is unknown; allowed: onnx, int8, pt2"):
        TrainConfig.of(export="pt2,onx")
    assert TrainConfig.of(export="onnx,int8,onnx").exports == ("onnx", "int8")


def test_a_network_with_masks_on_is_written_with_its_zeros(tmp_path: Path) -> None:
    """By the names of the network without them; in 8 bits zeros are whole numbers that are 0."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 64, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 4),
    ).eval()  # fmt: skip
    kept = {}
    for name, mask in attach(model, ["0.weight", "4.weight"]).items():
        kept[name] = torch.rand(mask.mask.shape) < 0.3
        kept[name][0] = False
        mask.put(kept[name])
    x, batches = torch.randn(4, 2, 8, 8), [torch.randn(8, 2, 8, 8) for _ in range(4)]
    amc.export(model, tmp_path / "a.safetensors", (x,))
    held = load_file(tmp_path / "a.safetensors")
    assert held.keys() == {*kept, "4.bias"}
    assert all(held[name].ne(0).equal(mask) for name, mask in kept.items())
    amc.export(model, tmp_path / "a.onnx", (x,), calibration=batches)
    codes = arrays_of(tmp_path / "a.onnx", np.int8)
    for code, mask in zip(sorted(codes, key=np.ndim), reversed(kept.values()), strict=True):
        assert code.shape == tuple(mask.shape) and not code[~mask.numpy()].any()
    assert masks_of(model).keys() == kept.keys()


def arrays_of(file: Path, kind: type) -> list[np.ndarray]:
    """The weights of a program, of two dimensions and more."""
    found = (numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer)
    return [one for one in found if one.dtype == kind and one.ndim > 1]
