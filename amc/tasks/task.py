"""What a network is for: how its outputs are trained, scored and compared.

Classification is built in; ``--task`` names anything else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.runtime import feed
from amc.runtime.errors import AmcError
from amc.runtime.user_code import load_object, user_code

Outputs: TypeAlias = Any
"""What of a network's outputs a task works on: a tensor, or several in containers, batch first."""

Results: TypeAlias = Iterable[tuple[Outputs, Tensor]]
"""(outputs, targets) of one batch after the other; can be gone through once."""


def relative_error(outputs: Outputs, reference: Outputs) -> Tensor:
    """Squared error as a part of the variance of what is reference.

    0 for equal outputs, 1 for a network that knows the mean of each channel and nothing else. Of
    several outputs, the mean of theirs.
    """
    if not isinstance(reference, Tensor):
        pairs = zip(feed.leaves(outputs), feed.leaves(reference), strict=True)
        return torch.stack([relative_error(x, goal) for x, goal in pairs]).mean()
    outputs, reference = outputs.float(), reference.float()
    others = [dim for dim in range(reference.ndim) if dim != 1]
    variance = (reference - reference.mean(dim=others, keepdim=True)).square().mean()
    energy = reference.square().mean()
    # one image has no variance where a channel has one value: there, its energy stands in
    scale = torch.where(variance > 1e-12 * energy, variance, energy).clamp(min=1e-12)
    error: Tensor = (outputs - reference).square().mean() / scale
    return error


@dataclass(frozen=True)
class Task:
    """A task of the user's own. Outputs and targets may be any tensors, batch first.

    Outputs are one tensor unless ``outputs`` says which ones they are.

    Examples:
        >>> import amc, torch
        >>> def minus_rmse(results):
        ...     return -torch.cat([(y - t).square() for y, t in results]).mean().sqrt().item()
        >>> task = amc.Task("minus RMSE", loss=torch.nn.functional.mse_loss, score=minus_rmse)
        >>> task.scored([(torch.ones(4, 1), torch.zeros(4, 1))])
        -1.0

    Attributes:
        name: of the score, for tables: "mIoU", "minus RMSE".
        loss: (outputs, targets) -> scalar to minimise, mean over the batch.
        score: goes through `Results`, returns any number; higher is better.
        percent: the score is a part of one, and is shown as a percentage.
        distance: (outputs, reference) -> scalar, mean over the batch; how far they are from what
            the original network puts out. The default reward and distillation go by it; for the
            latter it should be of the loss's own scale.
        source: what an error is blamed on.
        outputs: takes whatever the network returns, in training mode as in eval mode, and gives
            what the other functions see: a tensor, or several in a tuple, list or dictionary, all
            of them batch first. Without it, it is one: see `amc.tasks.evaluate.predictions`.
    """

    name: str
    loss: Callable[[Outputs, Tensor], Tensor]
    score: Callable[[Results], float]
    percent: bool = False
    distance: Callable[[Outputs, Outputs], Tensor] = relative_error
    source: str = "task"
    outputs: Callable[[Any], Outputs] | None = None

    @property
    def classifies(self) -> bool:
        """Whether outputs are class scores [batch, classes], and targets labels [batch]."""
        return False

    def for_network(self, network: nn.Module) -> "Task":
        """The task as this network does it; the same, unless the network tells a part of it."""
        return self

    def correct(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """How many of a batch are right; only classification knows."""
        return torch.zeros(())

    def batch_loss(self, outputs: Outputs, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The loss of a batch; ``smoothing`` of labels is for classification alone."""
        return self._scalar("loss", outputs, targets)

    def summed_loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """The loss of a batch times its size."""
        return self._scalar("loss", outputs, targets) * len(targets)

    def soften(self, outputs: Outputs, temperature: float) -> Outputs:
        """Outputs in the form that `divergence` compares; a temperature is for class scores."""
        return outputs

    def sharpness(self, temperature: float) -> float:
        """What makes up for softening when distances are to be trained down."""
        return 1.0

    def divergence(self, found: Outputs, reference: Outputs) -> Tensor:
        """The distance of softened outputs from others, summed over the batch."""
        return self._scalar("distance", found, reference) * feed.samples(found)

    @property
    def taken(self) -> Callable[[Any], Outputs] | None:
        """Takes what the task works on of what a network returns; None where that is all of it."""
        return None if self.outputs is None else self.picked

    def picked(self, found: Any) -> Outputs:
        """What ``outputs`` takes of what the network returned.

        Raises:
            AmcError: it fails, or gives something else than tensors.
        """
        taken = self._called("outputs", found)
        if isinstance(taken, Tensor):
            return taken
        parts = feed.leaves(taken)
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            raise AmcError(
                f"{self.source}: outputs must return a tensor, or several in a tuple, list or "
                f"dictionary, got {_form(taken)}"
            )
        return taken

    def scored(self, results: Results) -> float:
        """The score.

        Raises:
            AmcError: the function fails, or what it returns is no finite number.
        """
        value = self._called("score", results)
        try:
            number = float("nan") if isinstance(value, str) else float(value)
        except (TypeError, ValueError, RuntimeError):  # torch: a tensor of several numbers
            number = float("nan")
        if not abs(number) < float("inf"):
            raise AmcError(f"{self.source}: score must return a finite number, got {_form(value)}")
        return number

    def shown(self, score: float) -> str:
        """A score as text."""
        return f"{score:.2%}" if self.percent else f"{score:.4g}"

    @property
    def points(self) -> int:
        """How many points of a drop make a score of one."""
        return 100 if self.percent else 1

    def _scalar(self, part: str, *given: Any) -> Tensor:
        value = self._called(part, *given)
        if not (isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()):
            raise AmcError(
                f"{self.source}: {part} must return a scalar tensor, got {_form(value)}"
            )
        return value.reshape(())

    def _called(self, part: str, *given: Any) -> Any:
        with user_code(f"{self.source}: {part}:"):
            return getattr(self, part)(*given)


def accuracy(results: Results) -> float:
    """Correct top-1 predictions, 0 to 1."""
    correct, images = torch.zeros((), dtype=torch.long), 0
    for scores, labels in results:
        correct = correct.to(labels.device) + (scores.argmax(dim=1) == labels).sum()
        images += len(labels)
    return int(correct) / max(images, 1)


class Classification(Task):
    """Cross-entropy, accuracy and the divergence of softened predictions."""

    @property
    def classifies(self) -> bool:
        """Yes."""
        return True

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Correct top-1 predictions."""
        return (outputs.argmax(dim=1) == targets).sum()

    def batch_loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy; ``smoothing`` of every label is shared out among all classes."""
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in 32 bits."""
        return F.cross_entropy(outputs.float(), targets, reduction="sum")

    def soften(self, outputs: Tensor, temperature: float) -> Tensor:
        """Logarithms of the predictions at a temperature."""
        return F.log_softmax(outputs / temperature, dim=1)

    def sharpness(self, temperature: float) -> float:
        """Gradients of softened predictions fall with the square (Hinton et al. 2015)."""
        return temperature**2

    def divergence(self, found: Tensor, reference: Tensor) -> Tensor:
        """Kullback-Leibler divergence of softened predictions from others."""
        return F.kl_div(found, reference, reduction="sum", log_target=True)


CLASSIFICATION = Classification("accuracy", F.cross_entropy, accuracy, percent=True)


BUILT_IN = {"detection": "amc.tasks.detection:own_detection"}
"""Tasks with a name -> the function that makes one, of what an error is blamed on."""


def load_task(spec: str) -> Task:
    """The task that ``--task`` names.

    Args:
        spec: "classification", "detection", or ``module:object`` or ``path/to/file.py:object``: a
            `Task`, any object with the same attributes, or a function without arguments that
            returns one.

    Raises:
        AmcError: there is no such object, or it is no task.
    """
    if spec == "classification":
        return CLASSIFICATION
    source = f"--task {spec}"
    if spec in BUILT_IN:
        made: Task = load_object(BUILT_IN[spec])(source)
        return made
    found = load_object(spec)
    if callable(found) and (isinstance(found, type) or not hasattr(found, "loss")):
        with user_code(f"{source}:"):
            found = found()
    given: dict[str, Any] = {p: getattr(found, p, None) for p in ("name", "loss", "score")}
    given["distance"] = getattr(found, "distance", relative_error)
    if (outputs := getattr(found, "outputs", None)) is not None:
        given["outputs"] = outputs
    for part, value in given.items():
        right = callable(value) or (part == "name" and isinstance(value, str) and value.strip())
        if not right:
            kind = "text" if part == "name" else "a function"
            got = "nothing" if value is None else repr(value)
            raise AmcError(f"{source}: {type(found).__name__}.{part} must be {kind}, got {got}")
    percent = bool(getattr(found, "percent", False))
    return Task(**given, percent=percent, source=source)


def _form(value: object) -> str:
    """What a function of the user's returned, in a few words."""
    if isinstance(value, Tensor) and value.numel() != 1:
        return f"a tensor {list(value.shape)}"
    return " ".join(f"{type(value).__name__} {value}"[:60].split())
