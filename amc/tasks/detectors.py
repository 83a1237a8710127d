"""Who tells how a network detects: the network itself, or what is known of Ultralytics' YOLO.

Nothing of Ultralytics is imported: its networks bring their loss along.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc.runtime.errors import AmcError
from amc.tasks.mean_ap import Boxes
from amc.tasks.suppression import best_boxes
from amc.tasks.task import Outputs, relative_error

GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
"""Ultralytics' weights of the parts of its loss, where a network brings none."""

HEAD = ("stride", "nc", "reg_max")
"""What Ultralytics' heads know that find boxes without anchors: YOLOv8 and later."""

PARTS = frozenset({"boxes", "scores", "feats"})
"""What such a head puts out; masks, key points and angles come on top in other tasks."""


@dataclass(frozen=True)
class Detector:
    """How a network detects; see `amc.tasks.detection.detection` for the functions."""

    loss: Callable[[Outputs, Tensor], Tensor]
    boxes: Callable[[Outputs], Sequence[Boxes]]
    outputs: Callable[[Any], Outputs] | None = None
    distance: Callable[[Outputs, Outputs], Tensor] = relative_error


def detector(network: nn.Module) -> Detector:
    """How a network detects, as it tells by itself.

    A network of the user's own has methods ``loss(outputs, targets)`` and ``boxes(outputs)``, and
    perhaps ``outputs(found)`` and ``distance(outputs, reference)``. They must not depend on
    weights or widths: the original's are asked about what smaller networks put out.

    Raises:
        AmcError: it tells nothing.
    """
    own = {name: _method(network, name) for name in ("loss", "boxes", "outputs", "distance")}
    if own["loss"] and own["boxes"]:
        return Detector(
            own["loss"], own["boxes"], own["outputs"], own["distance"] or relative_error
        )
    layers = getattr(network, "model", None)
    head = layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None
    if callable(getattr(network, "init_criterion", None)) and all(hasattr(head, x) for x in HEAD):
        known = Ultralytics(network, head)
        return Detector(known.loss, known.boxes, known.outputs, known.distance)
    raise AmcError(
        f"--task detection: {type(network).__name__} has no methods loss(outputs, targets) and "
        "boxes(outputs), and is no YOLOv8 or later of Ultralytics; add them, or give --task "
        "file.py:task (amc.tasks.detection.detection)"
    )


def _method(network: nn.Module, name: str) -> Any:
    found = getattr(network, name, None)
    return found if callable(found) and not isinstance(found, nn.Module) else None


@dataclass(frozen=True)
class Ultralytics:
    """YOLOv8, YOLO11 and others of Ultralytics' that put out boxes, scores and feature maps.

    Sides of boxes are distributions over ``reg_max`` distances from a point of the feature map (Li
    et al. 2020, arXiv:2006.04388). Networks with two heads (YOLOv10, YOLO26) put out both.
    """

    network: nn.Module
    head: Any
    _criteria: dict[torch.device, Any] = field(default_factory=dict, repr=False)

    def outputs(self, found: Any) -> Outputs:
        """What the heads put out, in training as in evaluation.

        Of the feature maps loss and boxes want to know nothing but the size: empty ones of one
        channel stand for them, so that all of theirs can be cut.
        """
        if isinstance(found, tuple | list):  # evaluation puts decoded boxes before it
            found = found[-1]
        if isinstance(found, Mapping) and "one2one" in found:
            return {name: self._thin(found[name]) for name in ("one2many", "one2one")}
        return self._thin(found)

    def _thin(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, Mapping) or set(found) != PARTS:
            got = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
            raise AmcError(
                f"--task detection: {type(self.head).__name__} puts out {got}, expected boxes, "
                "scores and feats alone; for other tasks give --task file.py:task"
            )
        maps = [
            torch.zeros(len(one), 1, *one.shape[2:], dtype=one.dtype, device=one.device)
            for one in found["feats"]
        ]
        return {**found, "feats": maps}

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """The network's own, mean over the images."""
        first = _heads(outputs)[0]
        device, images = first["boxes"].device, len(targets)
        high, wide = (int(size * self.head.stride[0]) for size in first["feats"][0].shape[2:])
        image, row = (targets[..., 0] >= 0).nonzero(as_tuple=True)
        real = targets[image, row].to(device)
        corner, far = real[:, 1:3], real[:, 3:5]
        sides = torch.cat([(corner + far) / 2, far - corner], dim=1)
        batch = {
            "batch_idx": image.to(device, real.dtype),
            "cls": real[:, :1],
            "bboxes": sides / sides.new_tensor([wide, high, wide, high]),
        }
        found = self._criterion(device)(outputs, batch)
        total: Tensor = found[0].sum() / images
        return total

    def _criterion(self, device: torch.device) -> Any:
        """The loss of the network, which knows the device it was made for."""
        if device not in self._criteria:
            given = getattr(self.network, "args", None)
            known: Any = copy.copy(self.network)  # shallow: only what it holds is another
            if given is None or isinstance(given, dict):
                known.args = SimpleNamespace(**{**GAINS, **(given or {})})
            self._criteria[device] = known.init_criterion()
        return self._criteria[device]

    def boxes(self, outputs: Outputs) -> list[dict[str, Tensor]]:
        """The best boxes of every image."""
        heads = _heads(outputs)
        end = len(heads) > 1 and bool(getattr(self.head, "end2end", True))
        found = heads[1] if end else heads[0]
        sides = _sides(found["boxes"].float(), int(self.head.reg_max))
        points, strides = self._points(found["feats"], sides)
        corner, far = points - sides[:, :2], points + sides[:, 2:]
        boxes = (torch.cat([corner, far], dim=1) * strides).transpose(1, 2)
        scores = found["scores"].float().sigmoid().transpose(1, 2)
        return best_boxes(boxes, scores, overlap=1.0 if end else 0.7)

    def _points(self, maps: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
        """Middles of all places of the feature maps [2, A], and their strides [A]."""
        points, strides = [], []
        for one, stride in zip(maps, self.head.stride.tolist(), strict=True):
            high, wide = one.shape[2:]
            rows, columns = (torch.arange(n, device=like.device) + 0.5 for n in (high, wide))
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            points.append(torch.stack([x.flatten(), y.flatten()]))
            strides.append(torch.full((high * wide,), stride, device=like.device))
        return torch.cat(points, dim=1).to(like), torch.cat(strides).to(like)

    def distance(self, outputs: Outputs, reference: Outputs) -> Tensor:
        """How far scores and sides are from the reference's, on the scale of the loss.

        Kullback-Leibler divergences of the score of every class and, where the reference sees
        something, of the sides' distributions (Zheng et al. 2022, arXiv:2102.12252); by the sum of
        the reference's best scores, as the loss is by that of the targets'.
        """
        pairs = list(zip(_heads(outputs), _heads(reference), strict=True))
        apart = [_apart(found, goal, int(self.head.reg_max)) for found, goal in pairs]
        return torch.stack(apart).mean()


def _heads(outputs: Outputs) -> list[Mapping[str, Any]]:
    """What each head puts out: the one that proposes many boxes for an object comes first."""
    return [outputs["one2many"], outputs["one2one"]] if "one2one" in outputs else [outputs]


def _sides(boxes: Tensor, bins: int) -> Tensor:
    """Distances to left, top, right and bottom [B, 4, A], of the numbers that say so."""
    if bins == 1:
        return boxes
    shares = _bins(boxes, bins).softmax(dim=2)
    return (shares * torch.arange(bins, device=boxes.device)[:, None]).sum(dim=2)


def _bins(boxes: Tensor, bins: int) -> Tensor:
    """[B, 4 * bins, A] -> [B, 4, bins, A]."""
    return boxes.reshape(len(boxes), 4, bins, -1)


def _apart(found: Mapping[str, Tensor], goal: Mapping[str, Tensor], bins: int) -> Tensor:
    wished = goal["scores"].float()
    chances = wished.sigmoid()

    def entropy(scores: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores, chances, reduction="sum")

    classes = entropy(found["scores"].float()) - entropy(wished)
    seen = chances.amax(dim=1)  # [B, A]
    boxes, others = found["boxes"].float(), goal["boxes"].float()
    if bins == 1:
        sides = (boxes - others).abs().mean(dim=1)
    else:
        ours, theirs = (_bins(x, bins).log_softmax(dim=2) for x in (boxes, others))
        sides = (theirs.exp() * (theirs - ours)).sum(dim=2).mean(dim=1)
    parts = GAINS["cls"] * classes + GAINS["dfl"] * (seen * sides).sum()
    return parts / seen.sum().clamp(min=1)
