"""What a step of training costs on a CPU, against its floor: forward and backward alone.

    python experiments/training_step.py --threads 1
    python experiments/training_step.py --threads 2 --networks mobilenet_v2*0.25

A step is what `amc.training.trainer` does with a batch: shifted images, the network forward and
back, gradients clipped, SGD; and, where a cut network is distilled, the original forward. The
parts take turns, and the fastest of each counts: the machine may do other things meanwhile. One
thread is measured by the processor's own time. Memory is kept as the commands keep it, unless
--no-keep-freed.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
import tyro
from latency import network
from torch import Tensor, nn

from amc.allocators.uniform import uniform
from amc.data.arrays.augment import random_shift
from amc.graph.shrink import shrink
from amc.graph.tracing.trace import trace
from amc.objectives.budget import Budget
from amc.runtime.memory import keep_freed
from amc.tasks.evaluate import evaluating
from amc.training.recipe import Recipe, clip_by_filter_norm, optimiser

CLIP = 0.1


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    networks: tuple[str, ...] = (
        "resnet20", "resnet56*0.25", "vgg16*0.25", "mobilenet_v1*0.25", "mobilenet_v2*0.25",
    )  # fmt: skip
    """name, *width."""
    ratios: tuple[float, ...] = (1.0, 0.15)
    batch: int = 64
    threads: int = 1
    turns: int = 15
    keep_freed: bool = True


class Steps:
    """Steps of one network, and their parts."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.network, self.images = copy.deepcopy(network).train(), images
        self.labels = torch.arange(len(images)) % 10
        self.sgd = optimiser(self.network, Recipe(1, 1e-3))

    def floor(self) -> None:
        """Forward and backward."""
        self.sgd.zero_grad(set_to_none=True)
        F.cross_entropy(self.network(self.images), self.labels).backward()  # type: ignore[no-untyped-call]

    def clip(self) -> None:
        """Of gradients."""
        clip_by_filter_norm(self.network.parameters(), CLIP)

    def step(self) -> None:
        """All of it but the images and the original."""
        self.floor()
        self.clip()
        self.sgd.step()

    def forward(self) -> None:
        """As the original is run that a cut network learns from."""
        with torch.no_grad(), evaluating(self.network):
            self.network(self.images)


def fastest(parts: Sequence[Callable[[], object]], turns: int, threads: int) -> list[float]:
    """Milliseconds of each part, which take turns; of the processor's time if one thread works."""
    clock = time.process_time if threads == 1 else time.perf_counter
    found = [float("inf")] * len(parts)
    for _ in range(turns + 2):
        for number, part in enumerate(parts):
            start = clock()
            part()
            found[number] = min(found[number], 1e3 * (clock() - start))
    return found


def row(spec: str, ratio: float, setting: Setting) -> str:
    """The measurements of one network."""
    model, image = network(spec)
    if ratio < 1:
        graph = trace(model, (image,))
        counts = uniform(Budget(graph, ratio))
        model = shrink(model, graph.plan({name: range(n) for name, n in counts.items()}))
    images = torch.randn(setting.batch, *image.shape[1:])
    steps = Steps(model, images)
    shift, generator = random_shift(2), torch.Generator()
    parts: list[Callable[[], object]] = [
        steps.step, steps.floor, steps.forward, steps.clip, steps.sgd.step,
        lambda: shift(images, generator),
    ]  # fmt: skip
    times = fastest(parts, setting.turns, setting.threads)
    cells = [f"{one:.1f}" for one in times]
    over = f"{times[0] / times[1]:.2f}"
    return " | ".join([spec.partition("@")[0], f"{ratio:g}", cells[0], over, *cells[2:]])


def main() -> None:
    """Prints the table."""
    setting = tyro.cli(Setting)
    torch.set_num_threads(setting.threads)
    if setting.keep_freed:
        keep_freed()
    print("| network | MACs | step | step / floor | forward | clip | SGD | shift |")
    print("|---" * 8 + "|")
    for spec, ratio in product(setting.networks, setting.ratios):
        print(f"| {row(spec, ratio, setting)} |", flush=True)


if __name__ == "__main__":
    main()
