"""Torchvision's one-stage detectors, cut; docs/detectors.md.

    python -m amc.train --model examples/torchvision_detectors.py:ssdlite \
        --data examples/boxes.py:data --task detection --preserve-ratio 0.5

What they do before and after their layers depends on the values of tensors (resizing, suppression)
and cannot be traced. `OneStage` is the layers between, which is where the channels are; the
detector in it is torchvision's own, and is used by itself once it is cut.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from amc.tasks.suppression import best_boxes

CLASSES, SIDE = 3, 96


class OneStage(nn.Module):
    """RetinaNet, SSD or SSDlite on images of one size, normalised already.

    Args:
        detector: torchvision's; with ``softmax`` scores, its class 0 is the background.
        side: of the images.
    """

    def __init__(self, detector: nn.Module, side: int = SIDE) -> None:
        super().__init__()
        self.detector, self.softmax = detector, isinstance(detector, detection.ssd.SSD)
        images = torch.zeros(1, 3, side, side)
        was = detector.training
        with torch.no_grad():
            maps = list(detector.eval().backbone(images).values())
            (anchors,) = detector.anchor_generator(ImageList(images, [(side, side)]), maps)
        detector.train(was)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``bbox_regression`` [B, A, 4] and ``cls_logits`` [B, A, classes]."""
        found: dict[str, Tensor] = self.detector.head(
            list(self.detector.backbone(images).values())
        )
        return found

    def loss(self, outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Torchvision's own."""
        anchors = [self.anchors.to(targets.device)] * len(targets)
        real = [t[t[:, 0] >= 0] for t in targets]
        given = [{"boxes": t[:, 1:], "labels": t[:, 0].long() + self.softmax} for t in real]
        more: tuple[Any, ...] = ()
        if self.softmax:
            more = ([self._matched(t["boxes"]) for t in given],)
        losses = self.detector.compute_loss(given, outputs, anchors, *more)
        return torch.stack(list(losses.values())).sum()

    def _matched(self, boxes: Tensor) -> Tensor:
        anchors = self.anchors.to(boxes.device)
        if not len(boxes):
            return torch.full((len(anchors),), -1, device=boxes.device)
        overlap = box_iou(boxes, anchors)
        matched: Tensor = self.detector.proposal_matcher(overlap)
        return matched

    def boxes(self, outputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """The best boxes of every image."""
        scores, sides = outputs["cls_logits"], outputs["bbox_regression"]
        scores = scores.softmax(dim=2)[..., 1:] if self.softmax else scores.sigmoid()
        anchors = self.anchors.to(sides.device)
        boxes = [self.detector.box_coder.decode_single(one, anchors) for one in sides]
        return best_boxes(torch.stack(boxes), scores, overlap=0.5)


def ssdlite() -> nn.Module:
    """SSDlite on MobileNetV3; its weights are random, give some with --checkpoint."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OneStage(
            detection.ssdlite320_mobilenet_v3_large(
                weights=None, weights_backbone=None, num_classes=CLASSES + 1
            )
        )


def retinanet() -> nn.Module:
    """RetinaNet on ResNet-50 with a feature pyramid; likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OneStage(
            detection.retinanet_resnet50_fpn(
                weights=None, weights_backbone=None, num_classes=CLASSES
            )
        )
