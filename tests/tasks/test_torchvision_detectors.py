"""Torchvision's detectors: refused as they are, for a reason; the layers between are cut."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import amc
from amc.tasks.evaluate import predictions
from amc.tasks.task import load_task

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def examples() -> Any:
    pytest.importorskip("torchvision")
    sys.path.insert(0, str(EXAMPLES))
    import boxes
    import torchvision_detectors

    yield torchvision_detectors, boxes
    sys.path.remove(str(EXAMPLES))


@pytest.mark.parametrize(
    "name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"]
)
def test_as_they_are_they_are_refused(examples: Any, name: str) -> None:
    from torchvision.models import detection

    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4)
    with pytest.raises(amc.AmcError, match="a branch or size depends on the values of a tensor"):
        amc.trace(model, ([torch.rand(3, 64, 64), torch.rand(3, 64, 64)],))


@pytest.mark.parametrize("name", ["ssdlite", "retinanet"])
def test_the_layers_between_are_cut(examples: Any, name: str) -> None:
    made, drawn = examples[0], examples[1].drawn
    model, (images, targets) = getattr(made, name)(), drawn(2, 3)
    task = load_task("detection").for_network(model)
    graph = amc.trace(model, (images,), None, task.taken)
    assert {g.reason for g in graph.groups if not g.prunable} <= {
        "network input",
        "network output",
    }
    plan = graph.plan({g.name: range(max(1, g.size // 2)) for g in graph.decisions})
    small = amc.shrink(model, plan)
    task.batch_loss(predictions(small.train(), images, task), targets).backward()
    assert all(p.grad is not None for p in small.parameters() if p.requires_grad)
    small.eval()
    assert 0 <= task.scored([(predictions(small, images, task), targets)]) <= 1
    found = small.detector(list(images))  # torchvision's own, with its narrower layers
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
