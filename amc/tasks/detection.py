"""Object detection: boxes are found in images, and mean average precision (mAP) is the score.

The loss and the way from outputs to boxes are the network's own: it has methods for them, or it is
one of Ultralytics' (YOLO), see `amc.tasks.detectors`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from amc.runtime.errors import AmcError
from amc.tasks.detectors import detector
from amc.tasks.mean_ap import Boxes, check_library, mean_average_precision
from amc.tasks.task import Outputs, Results, Task, relative_error

COLUMNS = 5
"""Of a target: class, x1, y1, x2, y2."""


def detection(
    loss: Callable[[Outputs, Tensor], Tensor],
    boxes: Callable[[Outputs], Sequence[Boxes]],
    outputs: Callable[[Any], Outputs] | None = None,
    distance: Callable[[Outputs, Outputs], Tensor] = relative_error,
    source: str = "task",
) -> Task:
    """A task that is scored by mAP, for any network.

    Targets are [B, M, 5]: class, x1, y1, x2, y2 in pixels of every box of an image; rows that are
    left have a class of -1.

    Examples:
        >>> import torch
        >>> from amc.tasks.detection import detection
        >>> box = torch.tensor([[10.0, 10.0, 30.0, 30.0]])
        >>> found = {"boxes": box, "scores": torch.ones(1), "labels": torch.zeros(1)}
        >>> task = detection(lambda outputs, targets: outputs.mean(), lambda outputs: [found])
        >>> targets = torch.tensor([[[0, 10, 10, 30, 30], [-1, 0, 0, 0, 0]]])
        >>> task.scored([(torch.zeros(1, 1), targets)])
        1.0

    Args:
        loss: (outputs, targets) -> scalar, mean over the batch.
        boxes: outputs of a batch -> of every image ``boxes`` [N, 4] in pixels, ``scores`` [N] and
            ``labels`` [N], after overlapping ones were dropped (`amc.tasks.suppression`).
        outputs: see `Task`; without it, everything that the network returns.
        distance: see `Task`.
        source: see `Task`.

    Raises:
        AmcError: the package that counts is not installed.
    """
    check_library(source)

    def score(results: Results) -> float:
        return mean_average_precision(_found(results, boxes, source))

    return Task("mAP", loss, score, True, distance, source, outputs or _everything)


def _everything(found: Any) -> Outputs:
    """All that the network returns."""
    return found


def _found(
    results: Results, boxes: Callable[[Outputs], Sequence[Boxes]], source: str
) -> Iterator[tuple[Sequence[Boxes], Tensor]]:
    """Boxes and targets, looked at."""
    for outputs, targets in results:
        check_targets(targets, source)
        yield _checked(boxes(outputs), len(targets), source), targets


def check_targets(targets: Tensor, source: str) -> None:
    """Refuses targets of another form.

    Raises:
        AmcError: they are no boxes.
    """
    if targets.ndim != 3 or targets.shape[2] != COLUMNS:
        raise AmcError(
            f"{source}: targets must be [B, boxes, {COLUMNS}] (class, x1, y1, x2, y2 in pixels; "
            f"class -1 where an image has fewer boxes), got {list(targets.shape)}"
        )


def _checked(found: Any, images: int, source: str) -> Sequence[Boxes]:
    right = isinstance(found, list | tuple) and len(found) == images and all(map(_right, found))
    if not right:
        raise AmcError(
            f"{source}: boxes must return for each of {images} images a dictionary of boxes "
            "[N, 4], scores [N] and labels [N]"
        )
    every: Sequence[Boxes] = found
    return every


def _right(one: Any) -> bool:
    """Whether these are the boxes of an image."""
    if not isinstance(one, Mapping):
        return False
    boxes, *rest = (one.get(key) for key in ("boxes", "scores", "labels"))
    return (
        isinstance(boxes, Tensor)
        and boxes.shape == (len(boxes), 4)
        and all(isinstance(part, Tensor) and part.shape == boxes.shape[:1] for part in rest)
    )


@dataclass(frozen=True)
class OwnDetection(Task):
    """Detection whose loss and boxes the network tells, once it is there."""

    def for_network(self, network: nn.Module) -> Task:
        """The task with this network's loss and boxes.

        Raises:
            AmcError: the network tells neither.
        """
        own = detector(network)
        made = detection(own.loss, own.boxes, own.outputs, own.distance, self.source)
        return replace(made, loss=_on_boxes(own.loss, self.source))


def _on_boxes(
    loss: Callable[[Outputs, Tensor], Tensor], source: str
) -> Callable[[Outputs, Tensor], Tensor]:
    def checked(outputs: Outputs, targets: Tensor) -> Tensor:
        check_targets(targets, source)
        return loss(outputs, targets)

    return checked


def own_detection(source: str) -> Task:
    """What ``--task detection`` names.

    Raises:
        AmcError: the package that counts is not installed.
    """
    check_library(source)

    def unknown(*given: Any) -> Any:
        raise AmcError(f"{source}: the network is not there yet; ask task.for_network(network)")

    return OwnDetection("mAP", unknown, unknown, True, unknown, source)
