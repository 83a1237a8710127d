"""Mean average precision of detected boxes as COCO counts it; faster-coco-eval does the counting.

Lin et al. 2014 (arXiv:1405.0312) and its reference, pycocotools: for every class and every overlap
(intersection over union) of 0.50, 0.55, ... 0.95 the precision is averaged over 101 recalls; the
mean over all of them, with the 100 best boxes of every image.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from amc.runtime.errors import AmcError

Boxes: TypeAlias = Mapping[str, Tensor]
"""Of one image: ``boxes`` [N, 4] (x1, y1, x2, y2 in pixels), ``scores`` [N], ``labels`` [N]."""

MOST = 100
"""Boxes of an image that count, those of the highest scores."""


def check_library(where: str) -> None:
    """Refuses to begin without the package that counts.

    Raises:
        AmcError: it is not installed.
    """
    if find_spec("faster_coco_eval") is None:
        raise AmcError(
            f"{where} needs the package faster-coco-eval: pip install 'amc-pruning[detection]'"
        )


def mean_average_precision(results: Iterable[tuple[Sequence[Boxes], Tensor]]) -> float:
    """MAP at overlaps of 0.50 to 0.95, 0 to 1; 0 if there is nothing to be found.

    Args:
        results: boxes of every image of a batch, and the batch's targets [B, M, 5]: class, x1, y1,
            x2, y2 in pixels; rows of a class below 0 stand for nothing.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    silent: dict[str, Any] = {"print_function": lambda *line: None}
    truth, found, number = list[dict[str, Any]](), list[dict[str, Any]](), 0
    for batch, targets in results:
        for boxes, target in zip(batch, targets.cpu().double(), strict=True):
            number += 1
            real = target[target[:, 0] >= 0]
            ones = torch.ones(len(real))
            truth += _annotations(number, real[:, 1:], real[:, 0], ones)
            best = boxes["scores"].argsort(descending=True, stable=True)[:MOST]
            parts = (boxes[name][best].cpu().double() for name in ("boxes", "labels", "scores"))
            found += _annotations(number, *parts)
    classes = sorted({one["category_id"] for one in truth})
    if not classes:
        return 0.0
    known = _described(COCO(**silent), truth, number, classes)
    seen = _described(COCO(**silent), found, number, classes)
    counted = COCOeval_faster(known, seen, "bbox", **silent)
    counted.params.areaRng, counted.params.areaRngLbl = [[0.0, 1e10]], ["all"]
    counted.params.maxDets = [MOST]
    counted.evaluate()
    counted.accumulate()
    precision = np.asarray(counted.eval["precision"])
    return float(precision[precision > -1].mean())


def _annotations(
    image: int, boxes: Tensor, labels: Tensor, scores: Tensor
) -> list[dict[str, Any]]:
    """Boxes as COCO writes them down: x, y, width, height."""
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    rows = zip(sides.tolist(), labels.tolist(), scores.tolist(), strict=True)
    return [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": value,
        }
        for box, label, value in rows
    ]


def _described(
    coco: Any, annotations: list[dict[str, Any]], images: int, classes: Sequence[int]
) -> Any:
    """A data set in COCO's form, held in memory."""
    coco.dataset = {
        "info": {},
        "images": [{"id": one + 1} for one in range(images)],
        "categories": [{"id": one} for one in classes],
        "annotations": [{"id": n, **one} for n, one in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco
