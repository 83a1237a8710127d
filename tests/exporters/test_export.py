"""Files compute what the network computes, for any number of samples, or there is no file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import amc
from amc.exporters.export import Source, write
from amc.exporters.formats import EXPORTERS, Exporter, format_of
from amc.exporters.verification import difference
from amc.models.catalog import build
from amc.runtime.errors import AmcError
from amc.runtime.names import EXPORTS, MODELS


def small() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    model(torch.randn(16, 3, 6, 6))  # statistics of batch norm that are not those of the start
    return model


class Two(nn.Module):
    """Two inputs by name, two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, right: Tensor, left: Tensor) -> dict[str, Tensor]:
        a, b = self.left(left), self.right(right)
        return {"sum": a + b, "difference": a - b}


class Fixed(nn.Module):
    """Takes the number of samples for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) for row in x])


def test_an_onnx_file_runs_in_onnxruntime_without_us_for_any_batch(tmp_path: Path) -> None:
    model, path = small().train(), tmp_path / "a" / "net.onnx"
    state = {name: x.clone() for name, x in model.state_dict().items()}
    written = amc.export(model, path, (torch.randn(2, 3, 6, 6),))
    assert written.error <= written.tolerance == 1e-4 and written.batches == (1, 2, 5)
    assert written.bytes == path.stat().st_size and list(path.parent.iterdir()) == [path]
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    assert given.shape == ["batch", 3, 6, 6]
    assert model.training and all(x.equal(state[n]) for n, x in model.state_dict().items())
    for size in (1, 3, 17):
        x = torch.randn(size, 3, 6, 6)
        found = session.run(None, {given.name: x.numpy()})[0]
        np.testing.assert_allclose(found, model.eval()(x).detach(), rtol=1e-4, atol=1e-5)


def test_files_tell_nothing_of_the_machine_or_the_images(tmp_path: Path) -> None:
    image = torch.full((2, 3, 6, 6), 0.12345)
    for name in ("net.onnx", "net.pt2"):
        amc.export(small(), tmp_path / name, (image,))
        content = (tmp_path / name).read_bytes()
        assert b"site-packages" not in content and str(Path.cwd()).encode() not in content
        assert image.numpy().tobytes()[:64] not in content


def test_a_pt2_file_needs_torch_alone(tmp_path: Path) -> None:
    model = small().eval()
    amc.export(model, tmp_path / "net.pt2", (torch.randn(1, 3, 6, 6),))
    program = torch.export.load(tmp_path / "net.pt2").module()
    for size in (1, 4):
        x = torch.randn(size, 3, 6, 6)
        assert program(x).allclose(model(x), atol=1e-6)


def test_tensors_alone_are_the_state_dict(tmp_path: Path) -> None:
    model = small()
    for name in ("net.safetensors", "net.pt", "net.pth"):
        assert amc.export(model, tmp_path / name, (torch.randn(1, 3, 6, 6),)).error == 0
    read = load_file(tmp_path / "net.safetensors")
    plain = torch.load(tmp_path / "net.pt", weights_only=True)
    for name, x in model.state_dict().items():
        assert x.equal(read[name]) and x.equal(plain[name])


def test_several_inputs_and_outputs_keep_their_places(tmp_path: Path) -> None:
    model, path = Two().eval(), tmp_path / "two.onnx"
    given = {"left": torch.randn(2, 4), "right": torch.randn(2, 6)}
    amc.export(model, path, given)
    session = onnxruntime.InferenceSession(path)
    assert {one.name for one in session.get_inputs()} == {"left", "right"}
    found = session.run(None, {name: x.numpy() for name, x in given.items()})
    wanted = model(**given)
    np.testing.assert_allclose(found[0], wanted["sum"].detach(), atol=1e-5)
    np.testing.assert_allclose(found[1], wanted["difference"].detach(), atol=1e-5)


def test_a_network_that_fixes_its_batch_is_exported_for_one_sample(tmp_path: Path) -> None:
    model, path = Fixed().eval(), tmp_path / "fixed.onnx"
    written = amc.export(model, path, (torch.randn(3, 4),))
    assert written.batches == (1,)
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape == [1, 4]


def test_a_file_that_differs_is_not_written_and_the_older_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: nn.Module, made: Any) -> bytes:
        wrong = small()
        with torch.no_grad():
            wrong[6].bias[0] += 1e-2  # type: ignore[union-attr]
        return EXPORTERS["safetensors"].write(wrong, made)

    right = EXPORTERS["safetensors"]
    monkeypatch.setitem(EXPORTERS, "pt2", Exporter(".pt2", False, broken, right.read))
    source, path = Source(small(), torch.randn(4, 3, 6, 6)), tmp_path / "net.pt2"
    with pytest.raises(AmcError, match=r"net.pt2: not written, with a batch of 1 .* by 0.0"):
        write(source, path, "pt2")
    assert not list(tmp_path.iterdir())
    path.write_text("older")
    with pytest.raises(AmcError, match="the older file is kept"):
        write(source, path, "pt2")
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path) -> None:
    class Sorts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(np.sort(x.numpy())) * self.weight

    with pytest.raises(AmcError, match=r"Sorts cannot be traced: .*numpy"):
        amc.export(Sorts(), tmp_path / "net.onnx", (torch.randn(2, 3),))
    with pytest.raises(AmcError, match=r"net.tflite: its name tells no format; one that ends in"):
        amc.export(small(), tmp_path / "net.tflite", (torch.randn(2, 3, 6, 6),))
    assert not list(tmp_path.iterdir())


def test_the_difference_is_a_part_of_the_largest_number() -> None:
    a = torch.tensor([1.0, -4.0])
    assert difference([a + torch.tensor([0.5, 0.0])], [a]) == pytest.approx(0.125)
    assert difference([a / 1e3 + 1e-3], [a / 1e3]) == pytest.approx(0.1)  # of 0.01, not 0.004
    assert difference([a], [a, a]) == difference([a[:1]], [a]) == float("inf")
    nan = torch.tensor([1.0, float("nan")])
    assert difference([a], [nan]) == float("inf") and difference([nan], [nan]) == 0


def test_names_of_formats_agree() -> None:
    assert set(EXPORTS) == {*EXPORTERS, "int8"}
    assert [format_of(Path(f"x{one.suffix}")) for one in EXPORTERS.values()] == [*EXPORTERS]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_bundled_networks_are_equal_after_a_cut(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=1, width=0.5).eval()
    graph = amc.trace(model, (torch.randn(2, 1, 32, 32),))
    kept = {g.name: range(max(g.bounds[0], g.size // 2 + 1)) for g in graph.decisions}
    smaller = amc.shrink(model, graph.plan(kept))
    source = Source(smaller, torch.randn(5, 1, 32, 32))
    for kind in ("onnx", "pt2"):
        written = write(source, tmp_path / kind, kind)
        assert written.error <= 1e-4 and written.batches == (1, 2, 5)
    assert json.dumps(written.as_json()) and onnx.load(tmp_path / "onnx").graph.node
