"""How good a network is on images with their targets."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.runtime import distributed, feed
from amc.runtime.errors import AmcError
from amc.runtime.feed import Feed
from amc.runtime.user_code import user_code
from amc.tasks.precision import precise
from amc.tasks.task import CLASSIFICATION, Outputs, Results, Task

TEMPERATURE = 4.0
"""Temperature of the predictions that `Score.divergence` compares, so that all classes count."""


@dataclass(frozen=True)
class Score:
    """Result of one validation pass.

    Attributes:
        accuracy: correct top-1 predictions, 0 to 1; of another task, its own number.
        loss: mean cross-entropy, natural logarithm, or the task's own loss.
        images: how many were seen.
        divergence: mean Kullback-Leibler divergence of the softened predictions from those of
            another network, or the task's own distance, if there was one to compare with.
    """

    accuracy: float
    loss: float
    images: int
    divergence: float | None = None


class Answering(nn.Module):
    """Stands for a network, and puts out what the task takes of that one's outputs."""


def predictions(model: nn.Module, images: Feed, task: Task = CLASSIFICATION) -> Outputs:
    """What the network puts out, as the task takes it.

    Unless the task says so, this is one tensor (class scores [batch, classes]), also when it is
    wrapped: an output's ``logits`` (Hugging Face), ``out`` or ``logits`` of a dictionary
    (torchvision's segmentation), or the first of several outputs (auxiliary heads).
    """
    with user_code(f"the network fails on inputs {feed.in_words(feed.forms(images))}:"):
        found = feed.call(model, images)
    if task.outputs is not None:
        return found if isinstance(model, Answering) else task.picked(found)
    if isinstance(found, Mapping):  # Hugging Face's outputs are dictionaries as well
        found = next((found[key] for key in ("logits", "out") if key in found), found)
    elif isinstance(found, list | tuple) and found:
        found = getattr(found, "logits", found[0])
    if not isinstance(found, Tensor):
        raise AmcError(
            "the network must return a tensor, alone, first of several, or as 'logits' or 'out', "
            f"got {type(found).__name__}"
        )
    return found


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Feed, Tensor]],
    batch_statistics: bool = False,
    reference: Sequence[Outputs] | None = None,
    task: Task = CLASSIFICATION,
) -> Score:
    """Score, loss and divergence in eval mode; the model's modes are restored.

    Ranks take turns at the batches, and all of them return the score of one process, bit for bit.
    A score of the user's own goes through all batches, so that there every rank does the whole.

    Args:
        model: see `predictions`.
        batches: images and their targets.
        batch_statistics: batch norms use mean and variance of each batch instead of their running
            ones, which stay as they are: what they would be once adapted, for no second pass.
        reference: what `softened` gave for another network on the same batches.
        task: what is measured.
    """
    device = next(model.parameters()).device
    sums = [torch.zeros(0, 4, dtype=torch.float64, device=device)]

    def results() -> Results:
        """What a score goes through; everything else is summed up on the way."""
        for number, (inputs, targets) in enumerate(distributed.shard(batches)):
            found = predictions(model, feed.moved(inputs, device), task)
            targets = targets.to(device)
            loss, distance = task.summed_loss(found, targets), torch.zeros(())
            if reference is not None:
                soft = task.soften(feed.each(found, Tensor.float), TEMPERATURE)
                distance = task.divergence(soft, reference[number])
            parts = task.correct(found, targets), loss, distance, torch.tensor(len(targets))
            sums.append(torch.stack([part.to(device).double() for part in parts])[None])
            yield found, targets

    adapted = normalising_by_batch(model) if batch_statistics else contextlib.nullcontext()
    whole = distributed.single_process(not task.classifies)
    with torch.inference_mode(), evaluating(model), adapted, whole:
        own, passing = None, iter(results())
        if not task.classifies and (first := next(passing, None)):
            own = task.scored(chain([first], passing))
        for _ in passing:  # a score that stopped early leaves a rest
            pass
        return _score(distributed.all_gather_rows(torch.cat(sums)), own, reference is not None)


def _score(sums: Tensor, own: float | None, compared: bool) -> Score:
    """The score from hits, loss, divergence and images of every batch, added in order.

    Args:
        sums: [batches, 4].
        own: the score of the task's own function, instead of the hits.
        compared: whether there is a divergence.
    """
    hits = loss = divergence = images = 0.0
    for batch in sums.tolist():
        hits, loss = hits + batch[0], loss + batch[1]
        divergence, images = divergence + batch[2], images + batch[3]
    seen = max(images, 1)
    mean = divergence / seen if compared else None
    return Score(hits / seen if own is None else own, loss / seen, int(images), mean)


def reference_outputs(
    model: nn.Module, batches: Iterable[tuple[Feed, Tensor]], task: Task = CLASSIFICATION
) -> list[Outputs]:
    """What a network puts out, in the form that divergence compares.

    Logarithms of its predictions at `TEMPERATURE`, [batch, classes] each, or, of another task, its
    outputs; of this rank's own batches, as `evaluate` wants them.
    """
    device = next(model.parameters()).device
    with (
        torch.inference_mode(),
        evaluating(model),
        distributed.single_process(not task.classifies),
    ):
        return [
            task.soften(
                feed.each(predictions(model, feed.moved(inputs, device), task), Tensor.float),
                TEMPERATURE,
            )
            for inputs, _ in distributed.shard(batches)
        ]


@contextlib.contextmanager
def normalising_by_batch(model: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics of the batch inside, and leave their own untouched."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm in norms:
            norm.training, norm.track_running_stats = False, True


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, and what a GPU computes is precise."""
    with in_eval_mode(model), precise():
        yield


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
