"""Of boxes that overlap, the best one: non-maximum suppression without a loop over boxes."""

import torch
from torch import Tensor


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes [N, 4] and [M, 4], x1, y1, x2, y2: [N, M]."""
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    far = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (far - corner).clamp(min=0).prod(dim=2)
    areas = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(dim=1) for x in (boxes, others)]
    return both / (areas[0][:, None] + areas[1][None] - both).clamp(min=1e-9)


def suppressed(boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float) -> Tensor:
    """The boxes that stay, from the highest score down: none overlaps a better one of its class.

    Exactly what the usual loop gives (cluster NMS, Zheng et al. 2020, arXiv:2005.03572): a box
    goes if a better one that stays overlaps it; asked of all at once until nothing changes.

    Args:
        boxes: [N, 4].
        scores: [N].
        labels: [N]; boxes of different classes do not meet.
        overlap: intersection over union above which the worse one goes.

    Returns:
        Indices of the boxes that stay.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order].float(), labels[order]
    meets = (overlaps(boxes, boxes) > overlap) & (labels[:, None] == labels[None])
    better = meets.triu(diagonal=1)  # [i, j]: i would drive j out
    stays = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    while True:
        now = ~(better & stays[:, None]).any(dim=0)
        if bool((now == stays).all()):
            return order[stays]
        stays = now


def best_boxes(
    boxes: Tensor,
    scores: Tensor,
    least: float = 0.001,
    overlap: float = 0.7,
    candidates: int = 1000,
    most: int = 100,
) -> list[dict[str, Tensor]]:
    """The boxes of a batch that are worth counting, from scores of every class for every box.

    Args:
        boxes: [B, A, 4], x1, y1, x2, y2.
        scores: [B, A, classes], 0 to 1.
        least: scores below this are dropped,
        candidates: and all but so many of the highest of an image.
        overlap: see `suppressed`.
        most: boxes of an image that are left.

    Returns:
        Of every image ``boxes`` [N, 4], ``scores`` [N], ``labels`` [N] int64.
    """
    found = []
    for places, classes in zip(boxes, scores, strict=True):
        flat = classes.flatten()
        top = flat.argsort(descending=True, stable=True)[:candidates]
        top = top[flat[top] > least]
        box, label = places[top // classes.shape[1]], top % classes.shape[1]
        stay = suppressed(box, flat[top], label, overlap)[:most]
        found.append({"boxes": box[stay], "scores": flat[top][stay], "labels": label[stay]})
    return found
