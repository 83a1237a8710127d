"""What PyTorch is told where numbers are compared, and that it is told what it was afterwards."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.backends import cuda, cudnn

import amc
from amc.tasks.evaluate import evaluating
from amc.tasks.precision import precise, repeatable


def state() -> tuple[Any, ...]:
    return (
        cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision,
        cudnn.rnn.fp32_precision, cuda.matmul.fp32_precision,
    )  # fmt: skip


PRECISE = (True, False, "ieee", "ieee", "ieee")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = state()
    yield
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = True
    cudnn.benchmark = False
    assert state()[:4] == before[:4]


def newer() -> None:
    cudnn.conv.fp32_precision, cuda.matmul.fp32_precision = "ieee", "tf32"


def older() -> None:
    cudnn.allow_tf32, cudnn.benchmark = False, True
    torch.set_float32_matmul_precision("high")


@pytest.mark.parametrize("given", [lambda: None, older, newer])
def test_precise_inside_and_as_the_user_had_it_afterwards(given: Callable[[], None]) -> None:
    given()
    before = state()
    for _ in range(2):
        with precise(), precise():
            assert state()[:4] == PRECISE[:4] and state()[4] in ("ieee", "none")
            assert not cudnn.allow_tf32  # other code may ask
            with cudnn.flags(enabled=False):
                pass
        assert state() == before
    with pytest.raises(ValueError), precise():
        raise ValueError
    assert state() == before
    with repeatable():
        assert state() == (True, False, *before[2:])
    assert state() == before


class Watched(nn.Module):
    """Notes how it is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)
        self.seen: set[tuple[Any, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            WATCHED.add(state()[:4])
        found: Tensor = self.second(self.first(x).abs_()).mean((2, 3))
        return found


WATCHED: set[tuple[Any, ...]] = set()


def test_what_is_compared_is_precise_and_training_repeatable() -> None:
    """The proof of a cut, statistics and scores; training is as precise as the user has it."""
    model, images, labels = Watched(), torch.randn(8, 1, 4, 4), torch.arange(8) % 2
    WATCHED.clear()
    graph = amc.trace(model, (images,))
    assert list(graph.sizes) == ["first"]  # an operator that writes in place, and has no tag
    amc.calibrate(graph, model, [(images, labels)])
    with evaluating(model):
        model(images)
    assert WATCHED == {PRECISE[:4]}
    loader: Any = [(images, labels)]
    amc.compress(model, loader, loader, episodes=1, finetune_epochs=1, preserve_ratio=0.6)
    assert {PRECISE[:4], (*PRECISE[:2], "tf32", "tf32")} <= WATCHED
