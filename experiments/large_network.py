"""ResNet-50 at 224 x 224, random weights and images: time and memory of every step of a run.

    python experiments/large_network.py --images 100
    python experiments/large_network.py --images 100 --memory 500MB
    python experiments/large_network.py --images 1000 --steps calibrate

Statistics are streamed: their size depends on the network alone. Compare seconds per image with
the plain forward pass of the same run, and the peak between numbers of images.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from amc.allocators.uniform import uniform
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import Sampling
from amc.graph.tracing.trace import trace
from amc.metrics import METRICS, Evidence, selection_of
from amc.models.catalog import build
from amc.objectives.budget import Budget
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import compress
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.reconstruction.sensitivity import sensitivity
from amc.runtime.memory import parse_bytes
from amc.search.evaluator import evaluator
from amc.search.problem import Problem
from amc.search.search import Settings, search
from amc.search.trials import Limits, Trials
from amc.tasks.evaluate import evaluate
from envs import REWARDS


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    model: str = "resnet50"
    size: int = 224
    images: int = 100
    batch: int = 10
    validation: int = 20
    episodes: int = 5
    preserve_ratio: float = 0.5
    selector: Literal["lasso", "obs", "l1", "l2", "random"] = "obs"
    memory: str | None = None
    """As in a run: 4GB, 500MB."""
    steps: Literal["all", "selection", "calibrate"] = "all"
    """Up to which step."""
    threads: int = 2
    device: str = "cpu"


class Noise:
    """Batches of random images, made anew on every pass, so that they take no memory."""

    def __init__(self, images: int, batch: int, size: int, device: str) -> None:
        self.images, self.batch, self.size, self.device = images, batch, size, device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, start in enumerate(range(0, self.images, self.batch)):
            random = torch.Generator().manual_seed(number)
            count = min(self.batch, self.images - start)
            images = torch.randn(count, 3, self.size, self.size, generator=random)
            labels = torch.randint(1000, (count,), generator=random)
            yield images.to(self.device), labels.to(self.device)


def resident(name: str) -> float:
    """A line of this process's account, GB: VmHWM, the most since `forget_peak`, or VmRSS.

    On a GPU: what is taken there.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        peak = name == "VmHWM"
        taken = torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
        return taken / 1e9
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e9 if found else float("nan")


def forget_peak() -> None:
    """The next peak is that of what comes now."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Prints the table."""
    setting = tyro.cli(Setting)
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    limit = parse_bytes(setting.memory) if setting.memory else None
    model = build(setting.model, num_classes=1000, in_channels=3).to(setting.device).eval()
    images = Noise(setting.images, setting.batch, setting.size, setting.device)
    check = list(Noise(setting.validation, setting.batch, setting.size, setting.device))
    print(
        f"{setting.model}, {setting.size} x {setting.size}, {setting.images} images, "
        f"{setting.selector}, {setting.device}, memory {setting.memory or 'without a limit'}"
    )
    print("| step | s | CPU s | s per image | peak, GB |\n|---|---|---|---|---|")

    def step(name: str, work: Callable[[], Any], count: int = 0) -> Any:
        forget_peak()
        start, cpu = time.perf_counter(), time.process_time()
        result = work()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        each = f"{seconds / count:.3f}" if count else ""
        row = (name, f"{seconds:.1f}", f"{cpu:.1f}", each, f"{resident('VmHWM'):.2f}")
        print(f"| {' | '.join(row)} |", flush=True)
        return result

    graph = step("trace", lambda: trace(model, (check[0][0][:2],)))
    step("forward pass", lambda: _forward(model, images), setting.images)
    stats = step(
        "statistics",
        lambda: calibrate(graph, model, images, Sampling(10), memory=limit),
        setting.images,
    )
    held = sum(t.nbytes for s in stats.values() for t in (s.xx, s.xy, s.yy))
    print(f"| {len(stats)} layers, {held / 1e9:.2f} GB; left | | | | {resident('VmRSS'):.2f} |")
    if setting.steps == "calibrate":
        return
    compressor = Compressor(
        graph,
        model,
        stats,
        partial(selection_of, METRICS[setting.selector], Evidence(graph, model, stats)),
        memory=limit,
    )
    budget = Budget(graph, setting.preserve_ratio)
    errors = step("selection, errors", lambda: sensitivity(compressor, budget))
    if setting.steps == "selection":
        return
    reward = REWARDS["divergence"]
    trials = Trials(evaluator(compressor, check), reward, Limits(setting.episodes))
    task = Problem(budget, trials, errors)
    step(
        f"search, {setting.episodes} episodes",
        lambda: search(task, settings=Settings(warmup_episodes=2)),
        setting.episodes * setting.validation,
    )
    plan = compressor.plan(uniform(budget))
    originals = OriginalOutputs(graph, model, images, Sampling(10), limit)
    small = step("final cut", lambda: compress(compressor, plan, originals, True), setting.images)
    step("validation", lambda: evaluate(small, check), setting.validation)
    step("one training step", lambda: _train(small, check[0]), setting.batch)


def _forward(model: nn.Module, images: Noise) -> None:
    with torch.inference_mode():
        for batch, _ in images:
            model(batch)


def _train(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    torch.autograd.backward(nn.functional.cross_entropy(model.train()(batch[0]), batch[1]))
    optimiser.step()


if __name__ == "__main__":
    main()
