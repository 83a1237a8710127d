"""Static post-training quantisation to 8 bits, by onnxruntime's `quantize_static`.

Weights are whole numbers with one scale per channel, activations whole numbers with one scale per
tensor. The program holds pairs of QuantizeLinear and DequantizeLinear (QDQ), which a runtime turns
into integer arithmetic. Batch norm was folded into the convolutions by the export before.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amc.exporters.compact import compact
from amc.exporters.onnx_module import OnnxModule
from amc.exporters.onnx_program import hushed
from amc.runtime.errors import AmcError
from amc.runtime.user_code import one_line

METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
"""How a range of activations is found: all of them, nearly all, or where least is lost."""

Arrays = Mapping[str, Any]
"""One batch: arrays by the names of a program's inputs."""


@dataclass(frozen=True)
class Quantised:
    """A program in 8 bits.

    Attributes:
        content: of its file.
        method: of `METHODS`, the one that was best.
        error: how far its outputs are from those in 32 bits, see `distance`.
    """

    content: bytes
    method: str
    error: float


def best(
    program: bytes,
    outputs: Any,
    calibration: Sequence[Arrays],
    judged: Sequence[Arrays],
    step: Any = None,
) -> Quantised:
    """The program in 8 bits, calibrated by the method whose outputs are nearest to the original's.

    Args:
        program: an ONNX file in 32 bits.
        outputs: what the network puts out for anything.
        calibration: batches of training inputs, for the ranges of activations.
        judged: batches that the methods are compared on.
        step: called after each method.

    Raises:
        AmcError: the program cannot be quantised.
    """
    exact = answers(OnnxModule(program, outputs), judged)
    found = []
    for method in METHODS:
        content = quantised(program, calibration, method)
        with hushed():
            error = distance(answers(OnnxModule(content, outputs), judged), exact)
        found.append(Quantised(content, method, error))
        if step is not None:
            step(f"{method}: {error:.2g}")
    return min(found, key=lambda one: one.error)


def quantised(program: bytes, calibration: Sequence[Arrays], method: str) -> bytes:
    """The program in 8 bits.

    Weights use 7 of their 8 bits: processors without VNNI add pairs of products in 16 bits, which
    8 bits by 8 bits overflow. Biases stay in 32 bits; the runtime rounds them when it loads them.

    Raises:
        AmcError: it cannot be quantised.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    try:
        with hushed(), tempfile.TemporaryDirectory(prefix="amc-") as folder:
            file = Path(folder) / "int8.onnx"
            quantize_static(
                onnx.load_from_string(program),
                file,
                _reader(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[METHODS[method]],
                extra_options={
                    "QuantizeBias": False,
                    "CalibStridedMinMax": 1,  # batch after batch: else all outputs are held
                },
            )
            content: bytes = compact(onnx.load(file)).SerializeToString()
            return content
    except Exception as error:  # of many kinds
        raise AmcError(
            f"the network cannot be quantised to 8 bits: {one_line(error)[:300]}"
        ) from error


def answers(module: OnnxModule, batches: Sequence[Arrays]) -> list[list[Any]]:
    """What a program puts out for each batch."""
    return [module.session.run(None, dict(batch)) for batch in batches]


def distance(found: Sequence[Sequence[Any]], exact: Sequence[Sequence[Any]]) -> float:
    """Mean squared difference as a part of the mean square, the worst of all outputs.

    Infinite where a number is none.
    """
    worst = 0.0
    for place in range(len(exact[0])):
        a, b = (
            np.concatenate([np.asarray(one[place], dtype=np.float64).ravel() for one in batches])
            for batches in (found, exact)
        )
        if not np.isfinite(a).all():
            return float("inf")
        worst = max(worst, float(np.square(a - b).mean() / max(np.square(b).mean(), 1e-12)))
    return worst


def _reader(batches: Sequence[Arrays]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives the batches of a range one after the other."""

        def __init__(self) -> None:
            self.set_range(0, len(batches))

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = list(batches[start_index:end_index])

        def get_next(self) -> Any:
            return dict(self.left.pop(0)) if self.left else None

    return Reader()
