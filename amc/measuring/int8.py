"""A network in 8 bits: written, and measured against itself in 32 bits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
from torch import Tensor

from amc.exporters.captured import batch_of
from amc.exporters.export import Export, Source
from amc.exporters.formats import EXPORTERS
from amc.exporters.int8 import Arrays, Quantised, answers, best, distance
from amc.exporters.onnx_module import OnnxModule
from amc.exporters.verification import BATCHES, DifferentError, verified
from amc.objectives.latency import Timing, raced
from amc.runtime import feed
from amc.runtime.feed import Feed
from amc.runtime.files import write_atomically
from amc.tasks.evaluate import evaluate
from amc.tasks.task import Task

WORST = 0.1
"""Mean squared error of the outputs, as a part of their mean square, above which there is no file.

Networks that lose nothing have some 0.001.
"""


@dataclass(frozen=True)
class Judged:
    """What a network in 8 bits is calibrated and measured with.

    Attributes:
        calibration: training inputs as they are; nothing else decides on the numbers.
        validation: inputs on which ways to calibrate are compared.
        test: for the score alone; None: no score is taken.
        task: what is scored.
    """

    calibration: Sequence[Feed]
    validation: Sequence[Feed]
    test: Iterable[tuple[Feed, Tensor]] | None
    task: Task


def write_int8(
    source: Source,
    path: Path,
    judged: Judged,
    step: Callable[[str], None] = lambda note: None,
) -> Export:
    """Writes the network in 8 bits as an ONNX file.

    Args:
        source: the network.
        path: of the file; an older one stays where anything fails.
        judged: what it is calibrated and measured with.
        step: is told what was done, `STEPS` times.

    Raises:
        AmcError: the network cannot be exported or quantised, or its outputs are far off.
    """
    made = source.captured
    batches = BATCHES if made.batch is None else (made.batch,)
    program, outputs = EXPORTERS["onnx"].write(source.model, made), source.outputs
    exact = OnnxModule(program, outputs)
    verified(source.model, exact, source.sample, batches)
    step("in 32 bits")

    def arrays(inputs: Sequence[Feed]) -> list[Arrays]:
        fitting = inputs if made.batch is None else [batch_of(x, made.batch) for x in inputs]
        return [exact.given(one) for one in fitting]

    judging = arrays(judged.validation)
    found = best(program, outputs, arrays(judged.calibration), judging, step)
    errors = []

    def check(file: Path) -> None:
        module = OnnxModule(file, outputs)
        for size in batches:
            feed.call(module, batch_of(source.sample, size))
        errors.append(distance(answers(module, judging), answers(exact, judging)))
        if not errors[0] <= WORST:
            raise DifferentError(
                f"{path}: not written, in 8 bits the outputs are {errors[0]:.2g} of their mean "
                f"square off, {WORST:g} is allowed"
            )

    write_atomically(path, found.content, check)
    about = {"method": found.method, "calibrated_on": sum(map(feed.samples, judged.calibration))}
    about |= _measured(program, found, source, judged)
    step("measured")
    size = len(found.content)
    about |= {"float_bytes": len(program), "bytes_ratio": size / len(program)}
    return Export("onnx", path, size, errors[0], WORST, batches, about)


STEPS = 5
"""Of `write_int8`."""


def _measured(program: bytes, found: Quantised, source: Source, judged: Judged) -> dict[str, Any]:
    """Scores on the test split, and times of one sample on one thread, the two taking turns."""
    one = batch_of(source.sample, 1)
    about: dict[str, Any] = {}
    runs: list[Callable[[], object]] = []
    for name, content in (("float_accuracy", program), ("accuracy", found.content)):
        module = OnnxModule(content, source.outputs, threads=1)
        if judged.test is not None:
            about[name] = evaluate(module, judged.test, task=judged.task).accuracy
        runs.append(partial(module.session.run, None, module.given(one)))
    times = raced(Timing(f"onnxruntime {onnxruntime.__version__}"), runs[0], runs[1])
    assert times.original and times.pruned
    return about | {
        "latency_ms": times.pruned.median,
        "float_latency_ms": times.original.median,
        "latency_ratio": times.ratio,
        "latency_spread": times.spread,
        "runtime": times.where,
    }
