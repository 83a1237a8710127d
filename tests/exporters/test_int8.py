"""Networks in 8 bits: nearly the same outputs, in whole numbers, in a third of the bytes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import amc
from amc.exporters.compact import compact
from amc.exporters.int8 import distance
from amc.runtime.errors import AmcError


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip
    model(torch.randn(64, 3, 8, 8))
    return model.eval()


def test_a_network_in_8_bits_is_small_nearly_equal_and_in_whole_numbers(tmp_path: Path) -> None:
    """Although biases are not quantised in the file; and weights use 7 of their 8 bits."""
    model, batches = convolutions(), [torch.randn(8, 3, 8, 8) for _ in range(4)]
    written = amc.export(model, tmp_path / "int8.onnx", (batches[0],), calibration=batches)
    assert written.int8 and written.int8["calibrated_on"] == 24
    ratio = written.bytes / written.int8["float_bytes"]
    assert ratio == pytest.approx(written.int8["bytes_ratio"]) and ratio < 0.32
    assert written.error < 0.01 and written.int8["latency_ms"] > 0
    x = torch.randn(5, 3, 8, 8)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", options)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    wanted = model(x).detach().numpy()
    assert np.square(found - wanted).mean() < 0.01 * np.square(wanted).mean()
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2 and not {"Conv", "Cast"} & set(kinds)
    held = onnx.load(tmp_path / "int8.onnx").graph.initializer
    codes = [numpy_helper.to_array(x) for x in held if x.data_type == TensorProto.INT8]
    assert [int(np.abs(x).max()) for x in codes if x.ndim == 4] == [64, 64]


def program_of(nodes: list[onnx.NodeProto], held: list[TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
        held,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(program: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(program.SerializeToString())
    return session.run(None, {"x": x})[0]


def test_compact_takes_zero_points_and_names_and_changes_no_bit() -> None:
    weight = numpy_helper.from_array(np.arange(-4, 4, dtype=np.int8).reshape(4, 2), "a.weight")
    scale = numpy_helper.from_array(np.array([0.5, 0.25], np.float32), "a.scale")
    zero = numpy_helper.from_array(np.zeros(2, np.int8), "a.zero")
    unused = numpy_helper.from_array(np.zeros(99, np.float32), "unused")
    nodes = [
        helper.make_node(
            "DequantizeLinear", ["a.weight", "a.scale", "a.zero"], ["a.float"], "one", axis=1
        ),
        helper.make_node("MatMul", ["x", "a.float"], ["y"], "two"),
    ]
    made = program_of(nodes, [weight, scale, zero, unused])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    before, size = run(made, x), made.ByteSize()
    smaller = compact(made)
    assert smaller.ByteSize() < size - 400
    assert len(smaller.graph.initializer) == 2 and len(smaller.graph.node[0].input) == 2
    np.testing.assert_array_equal(run(smaller, x), before)


@pytest.mark.parametrize("dead", [False, True])
def test_scales_of_channels_have_16_bits_where_these_are_exact_enough(dead: bool) -> None:
    drawn = np.random.default_rng(1)
    scales = drawn.uniform(1e-3, 1e-2, 64).astype(np.float32)
    scales[7] = 1e-8 if dead else 1e-3  # nothing in 16 bits
    codes = numpy_helper.from_array(drawn.integers(-64, 65, (4, 64), np.int8), "w")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=1),
        helper.make_node("Gemm", ["x", "f", "b"], ["y"]),
    ]
    bias = numpy_helper.from_array(drawn.normal(size=64).astype(np.float32), "b")
    made = program_of(nodes, [codes, numpy_helper.from_array(scales, "s"), bias])
    x = drawn.normal(size=(3, 4)).astype(np.float32)
    before = run(made, x)
    smaller = compact(made)
    assert [n.op_type for n in smaller.graph.node].count("Cast") == (1 if dead else 2)
    np.testing.assert_allclose(run(smaller, x), before, atol=2e-3)


def test_distance_is_the_worst_of_all_outputs() -> None:
    exact = [[np.array([2.0]), np.array([1.0, 1.0])], [np.array([-2.0]), np.array([1.0, 1.0])]]
    near = [[np.array([2.0]), np.array([1.0, 1.5])], [np.array([-1.0]), np.array([1.0, 1.0])]]
    assert distance(near, exact) == pytest.approx(0.125)  # 1 of 8; 0.25 of 4 is less
    assert distance(exact, exact) == 0
    assert distance([[np.array([np.nan])]], [[np.array([1.0])]]) == float("inf")


def test_8_bits_need_onnx_and_something_to_calibrate_on(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(AmcError, match="calibration is for 8 bits"):
        amc.export(convolutions(), tmp_path / "net.pt2", (x,), calibration=[x])
    with pytest.raises(AmcError, match="calibration: there is no batch"):
        amc.export(convolutions(), tmp_path / "net.onnx", (x,), calibration=[])
