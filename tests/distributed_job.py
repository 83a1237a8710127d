"""What one process computes, and several: started by torchrun, with a folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import amc
from amc.calibration.calibrate import calibrate
from amc.calibration.statistics import Sampling
from amc.data.loader import TensorLoader
from amc.metrics import METRICS, Evidence, selection_of
from amc.reconstruction import layer_by_layer, one_pass
from amc.reconstruction.batchnorm import adapt_batchnorm
from amc.reconstruction.compressor import Compressor
from amc.reconstruction.layer_by_layer import compress
from amc.reconstruction.original_outputs import OriginalOutputs
from amc.runtime import distributed, launch
from amc.runtime.errors import AmcError
from amc.tasks.evaluate import evaluate, reference_outputs
from amc.training.checkpoint import Checkpoint
from amc.training.trainer import Recipe, Step, train

SAMPLING = Sampling(4)


class Block(nn.Module):
    """Batch norm, a shortcut, a linear layer; dropout where it is trained."""

    def __init__(self, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.inner, self.outer = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        return self.head(self.drop(x.mean((2, 3))))


def network(seed: int, **more: float) -> nn.Module:
    torch.manual_seed(seed)
    return Block(**more).eval()


def images(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(9)
    return [(torch.randn(n, 1, 12, 12, generator=generator), torch.arange(n) % 5) for n in sizes]


@contextmanager
def held(size: int) -> Iterator[None]:
    """How much the passes of a cut may hold; little makes it go layer by layer."""
    before, one_pass.HELD_BYTES = one_pass.HELD_BYTES, size
    yield
    one_pass.HELD_BYTES = before


@contextmanager
def wide() -> Iterator[None]:
    """All layers are too wide for their X'X."""
    before, layer_by_layer.MAX_COLUMNS = layer_by_layer.MAX_COLUMNS, 0
    yield
    layer_by_layer.MAX_COLUMNS = before


def statistics() -> Iterator[tuple[str, Tensor]]:
    model = network(0)
    for name, batches in (("five", images(8, 8, 8, 8, 3)), ("one", images(8))):
        graph = amc.trace(model, (batches[0][0],))
        for layer, stats in calibrate(graph, model, batches, SAMPLING).items():
            yield f"stats.{name}.{layer}.xx", stats.xx
            yield f"stats.{name}.{layer}.xy", stats.xy
            yield f"stats.{name}.{layer}.yy", stats.yy
            yield f"stats.{name}.{layer}.rows", torch.tensor(stats.rows)


def scores() -> Iterator[tuple[str, Tensor]]:
    model, other = network(0), network(1)
    for name, batches in (("five", images(9, 9, 9, 9, 4)), ("one", images(9)), ("none", [])):
        for by_batch in (False, True):
            found = evaluate(model, batches, by_batch, reference_outputs(other, batches))
            yield f"score.{name}.{by_batch}", torch.tensor(astuple(found), dtype=torch.float64)


def cuts() -> Iterator[tuple[str, Tensor]]:
    model = network(0)
    for name, batches in (("five", images(8, 8, 8, 8, 3)), ("one", images(8))):
        graph = amc.trace(model, (batches[0][0],))
        stats = calibrate(graph, model, batches, SAMPLING)
        compressor = Compressor(
            graph,
            model,
            stats,
            partial(selection_of, METRICS["l1"], Evidence(graph, model, stats)),
        )
        plan = compressor.plan({group: size // 2 for group, size in graph.sizes.items()})
        for way, size in (("in step", 2**30), ("by layer", 0)):
            with held(size):
                originals = OriginalOutputs(graph, model, batches, SAMPLING)
                small = compress(compressor, plan, originals, adapt=True)
            for key, tensor in small.state_dict().items():
                yield f"cut.{name}.{way}.{key}", tensor
        with wide():
            small = compress(
                compressor, plan, OriginalOutputs(graph, model, batches, SAMPLING), adapt=True
            )
        for key, tensor in small.state_dict().items():
            yield f"descent.{name}.{key}", tensor
    for key, tensor in adapt_batchnorm(network(0), images(8)).state_dict().items():
        yield f"adapted.{key}", tensor


def metrics() -> Iterator[tuple[str, Tensor]]:
    model = network(0)
    for name, batches in (("five", images(8, 8, 8, 8, 3)), ("one", images(8))):
        graph = amc.trace(model, (batches[0][0],))
        evidence = Evidence(graph, model, {}, images=batches)
        for metric in ("activation_mean", "apoz", "gradient", "taylor", "fisher", "movement"):
            for group in graph.decisions:
                found = METRICS[metric](evidence, group)
                yield f"metric.{name}.{metric}.{group.name}", torch.from_numpy(found)


def trainings() -> Iterator[tuple[str, Tensor]]:
    ((inputs, labels),) = images(33)  # the last batch has one image
    for name, model in (
        ("plain", network(2, norm=False)),
        ("norm", network(2)),
        ("dropout", network(2, dropout=0.5)),
    ):
        stream = TensorLoader(inputs, labels, batch_size=8, shuffle=True)
        losses: list[float] = []

        def seen(step: Step, losses: list[float] = losses) -> None:
            losses.append(step.loss)

        train(model, stream, Recipe(2, 0.05, clip=1.0, ema=0.5), on_step=seen)
        yield f"training.{name}.losses", torch.tensor(losses)
        for key, tensor in model.state_dict().items():
            yield f"training.{name}.{key}", tensor


class _Stop(Exception):
    pass


def resumed() -> Iterator[tuple[str, Tensor]]:
    """A training that was stopped after an epoch, and one that was not."""
    ((inputs, labels),) = images(33)
    stream = TensorLoader(inputs, labels, batch_size=8, shuffle=True)
    recipe, again, whole = Recipe(2, 0.05), network(2, dropout=0.5), network(2, dropout=0.5)
    train(whole, stream, recipe)

    def stop(epoch: int, model: nn.Module) -> None:
        raise _Stop

    with TemporaryDirectory() as place:
        checkpoint = Checkpoint(Path(place) / "training.safetensors", {})
        with suppress(_Stop):
            train(network(2, dropout=0.5), stream, recipe, on_epoch=stop, checkpoint=checkpoint)
        left = distributed.on_rank_zero(
            checkpoint.path.read_bytes
        )  # all go on from what the first has left
        checkpoint.path.write_bytes(left)
        train(again, stream, recipe, checkpoint=checkpoint)
    for key, tensor in whole.state_dict().items():
        yield f"whole.{key}", tensor
    for key, tensor in again.state_dict().items():
        yield f"resumed.{key}", tensor


def words() -> Iterator[tuple[str, Tensor]]:
    def refused() -> bytes:
        raise AmcError("refused by the first")

    yield "first", torch.tensor(list(distributed.on_rank_zero(lambda: b"said by the first")))
    try:
        distributed.on_rank_zero(refused)
    except AmcError as error:
        yield "refused", torch.tensor(list(str(error).encode()))
    yield (
        "alike",
        torch.tensor(
            [distributed.all_equal("same"), distributed.all_equal(f"rank {distributed.rank()}")]
        ),
    )


def everything() -> dict[str, Tensor]:
    parts = (statistics(), scores(), cuts(), metrics(), trainings(), resumed(), words())
    return {name: t.detach().clone().contiguous() for part in parts for name, t in part}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with launch.joined("cpu"):
        save_file(everything(), Path(sys.argv[1]) / f"{distributed.rank()}.safetensors")
