"""Ultralytics' YOLO: cut, trained again, and back in Ultralytics' hands; docs/detectors.md.

    python -m amc.train --model examples/yolo.py:yolov8n --data examples/boxes.py:data \
        --task detection --preserve-ratio 0.5
"""

from pathlib import Path

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

from amc.models.pretrained import trained
from amc.runtime.user_code import load_function
from amc.tasks.task import load_task
from amc.training.distillation import supervised
from amc.training.recipe import Recipe

CLASSES = ("disc", "square", "triangle")
DATA = f"{Path(__file__).with_name('boxes.py')}:data"
RECIPE = Recipe(epochs=12, learning_rate=0.05, clip=0.2)


def yolov8n() -> nn.Module:
    """What --model names: the network with its weights."""
    return network("yolov8n")


def yolo11n() -> nn.Module:
    """The same of YOLO11."""
    return network("yolo11n")


def network(name: str, recipe: Recipe = RECIPE) -> nn.Module:
    """A network of Ultralytics', trained on the boxes; with weights: YOLO("x.pt").model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DetectionModel(f"{name}.yaml", nc=len(CLASSES), verbose=False)
        task, stream = load_task("detection").for_network(model), load_function(DATA)().train
        key = [name, "boxes", 1, recipe.epochs, recipe.learning_rate]
        return trained(model, f"{name}-boxes", key, stream, recipe, supervised(task))[0]


def as_yolo(model: nn.Module, names: tuple[str, ...] = CLASSES) -> YOLO:
    """The object that Ultralytics' own API trains, validates, exports and predicts with.

    Args:
        model: a `DetectionModel` of any widths.
        names: of the classes.
    """
    found = YOLO(f"{Path(model.yaml['yaml_file']).stem}.yaml", task="detect", verbose=False)
    given = found.model.args
    found.model = model
    for block in model.modules():
        if hasattr(block, "forward_split"):  # C2f, as it is exported: by a number that nobody kept
            block.c = block.cv1.conv.out_channels // 2
    model.args, model.task, model.names = given, "detect", dict(enumerate(names))
    return found


class PrunedTrainer(DetectionTrainer):
    """Trains the network that it is given: Ultralytics' own builds another one from its yaml.

    YOLO.train(trainer=pruned_trainer(model)) uses it.
    """

    given: nn.Module

    def get_model(self, cfg=None, weights=None, verbose=True):  # type: ignore[no-untyped-def]
        """The network as it is."""
        return self.given


def pruned_trainer(model: nn.Module) -> type[PrunedTrainer]:
    """A trainer of this network."""
    return type("PrunedTrainer", (PrunedTrainer,), {"given": model})
