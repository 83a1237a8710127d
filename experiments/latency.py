"""Is a cut network faster? Time in onnxruntime against the original, by multiple of the counts.

    python experiments/latency.py
    python experiments/latency.py --networks resnet20 --ratios 0.5 0.4 0.3 0.25 0.2 --multiples 1

Uniform strategies, random weights, one thread, batches of one; the two networks of a pair take
turns, and the fastest of their turns are compared.
"""

from dataclasses import dataclass
from itertools import product

import torch
import tyro
from torch import nn

from amc.allocators.multiples import budget_for
from amc.allocators.uniform import uniform
from amc.graph.channel_graph import ChannelGraph
from amc.graph.shrink import shrink
from amc.graph.tracing.trace import trace
from amc.models.catalog import build
from amc.objectives.latency import Timing, raced, session
from amc.runtime.errors import AmcError


@dataclass(frozen=True)
class Table:
    """What to measure."""

    networks: tuple[str, ...] = (
        "resnet20@32", "mobilenet_v1@32", "mobilenet_v2@32", "mobilenet_v2@96", "vgg16*0.5@32",
        "resnet56@32",
    )  # fmt: skip
    """name, *width, @size of the image."""
    ratios: tuple[float, ...] = (0.5, 0.3)
    multiples: tuple[str, ...] = ("1", "4", "8", "16", "auto")


def network(spec: str) -> tuple[nn.Module, torch.Tensor]:
    """The network that a word names, and an image."""
    name, _, size = spec.partition("@")
    name, _, width = name.partition("*")
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=3, width=float(width or 1))
    return model.eval(), torch.randn(1, 3, int(size or 32), int(size or 32))


def cell(model: nn.Module, graph: ChannelGraph, x: torch.Tensor, ratio: float, word: str) -> str:
    """Time of the uniform cut as part of the original's."""
    try:
        budget = budget_for(graph, ratio, "auto" if word == "auto" else int(word))
    except AmcError:
        return ""
    keep = {name: range(count) for name, count in uniform(budget).items()}
    small = shrink(model, graph.plan(keep))
    timing = raced(Timing("onnxruntime"), session(model, x), session(small, x))
    return f"{timing.ratio:.2f}" + (f" ({budget.multiple})" if word == "auto" else "")


def main() -> None:
    """Measures and prints the table."""
    table = tyro.cli(Table)
    print(f"| network, input | MACs | {' | '.join(table.multiples)} |")
    print("|---" * (2 + len(table.multiples)) + "|")
    for spec, ratio in product(table.networks, table.ratios):
        model, x = network(spec)
        graph = trace(model, (x,))
        cells = [cell(model, graph, x, ratio, word) for word in table.multiples]
        print(f"| {spec.replace('@', ', ')} | {ratio:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
