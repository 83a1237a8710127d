"""Ultralytics' YOLO from end to end: traced, cut to half, trained, exported, given back.

Wants the extra `yolo`; the network has seen a few steps of training, not enough to be any good.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import amc
from amc.tasks.detectors import detector
from amc.tasks.evaluate import predictions
from amc.tasks.suppression import suppressed
from amc.tasks.task import load_task

EXAMPLES = Path(__file__).parents[2] / "examples"
SIDE = 96

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The modules of the examples, which keep what Ultralytics writes in a folder of its own."""
    pytest.importorskip("ultralytics")
    sys.path.insert(0, str(EXAMPLES))
    import boxes
    import yolo

    yield yolo, boxes
    sys.path.remove(str(EXAMPLES))


def built(name: str) -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model: nn.Module = DetectionModel(f"{name}.yaml", nc=3, verbose=False)
    return model


@pytest.fixture(scope="module")
def halved(examples: Any) -> tuple[nn.Module, amc.train.Result, Any]:  # type: ignore[name-defined]
    """YOLOv8n at half of its MACs, uniformly, after an epoch of training on 96 images."""
    data = examples[1].data(train=96, val=24, test=24)
    model = built("yolov8n")
    result = amc.compress(
        model, data.train, data.val, data.test, task="detection", mode="uniform",
        preserve_ratio=0.5, finetune_epochs=1, calibration_batches=2, device="cpu",
    )  # fmt: skip
    return model, result, data


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolov10n", "yolo26n"])
def test_all_but_what_the_heads_put_out_can_be_cut(examples: Any, name: str) -> None:
    model = built(name)
    task = load_task("detection").for_network(model)
    graph = amc.trace(model, (torch.zeros(2, 3, SIDE, SIDE),), None, task.taken)
    least = {group.name: group.bounds[0] for group in graph.decisions}
    assert graph.cost.macs(graph.counts(least)) < 0.01 * graph.macs()
    plan = graph.plan({g.name: range(max(1, g.size // 2)) for g in graph.decisions})
    small, images = amc.shrink(model, plan), torch.rand(2, 3, SIDE, SIDE)
    targets = torch.tensor([[[0, 10.0, 10, 40, 40]], [[-1, 0.0, 0, 0, 0]]])
    task.batch_loss(predictions(small.train(), images, task), targets).backward()
    assert all(p.grad is not None for p in small.parameters() if p.requires_grad)


def test_the_loss_is_ultralytics_own(examples: Any) -> None:
    model, (images, targets) = built("yolov8n"), examples[1].drawn(4, 7)
    task = load_task("detection").for_network(model)
    image, row = (targets[..., 0] >= 0).nonzero(as_tuple=True)
    real = targets[image, row]
    sides = torch.cat([(real[:, 1:3] + real[:, 3:]) / 2, real[:, 3:] - real[:, 1:3]], 1) / SIDE
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    batch = {"img": images, "batch_idx": image.float(), "cls": real[:, :1], "bboxes": sides}
    expected = (model.loss(batch)[0].sum() / 4).item()
    found = task.batch_loss(predictions(model, images, task), targets).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_boxes_are_those_of_inference(examples: Any) -> None:
    from ultralytics.utils.nms import non_max_suppression

    model, (images, _) = built("yolov8n").eval(), examples[1].drawn(2, 7)
    for branch in (*model.model[-1].cv2, *model.model[-1].cv3):  # no two of a score or a size
        nn.init.normal_(branch[-1].weight)
        nn.init.normal_(branch[-1].bias)
    with torch.inference_mode():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.train()
        decoded, outputs = model(images)
    own = detector(model)
    assert own.outputs is not None
    ours = own.boxes(own.outputs((decoded, outputs)))
    theirs = non_max_suppression(
        decoded, 0.001, 0.7, multi_label=True, max_det=100, max_nms=1000, max_wh=10_000
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine["scores"]) == len(other) > 10
        assert torch.allclose(mine["scores"], other[:, 4], atol=1e-5)
        assert torch.allclose(mine["boxes"].sum(), other[:, :4].sum(), rtol=1e-4)


def test_suppression_is_torchvision_s(examples: Any) -> None:
    from torchvision.ops import batched_nms

    corner = 80 * torch.rand(300, 2)
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(300, 2)], dim=1)
    scores, labels = torch.rand(300), torch.randint(0, 3, (300,))
    expected = batched_nms(boxes, scores, labels, 0.5)
    assert suppressed(boxes, scores, labels, 0.5).tolist() == expected.tolist()


def test_half_of_the_macs_trained(halved: Any) -> None:
    model, result, _ = halved
    assert 0.4 < result.report.macs.ratio <= 0.5
    assert type(result.model) is type(model)
    assert 0 <= result.report.accuracy["recovered"] <= 1
    dfl = dict(result.model.named_parameters())["model.22.dfl.conv.weight"]
    assert dfl.flatten().tolist() == list(range(16))  # frozen, and it stays so


def test_the_same_from_onnxruntime(halved: Any, tmp_path: Path) -> None:
    import onnxruntime

    _, result, data = halved
    images = next(iter(data.test))[0][:2]
    model, file = result.model.eval(), tmp_path / "yolo.onnx"
    amc.export(model, file, (images,))
    session = onnxruntime.InferenceSession(file)
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    expected = model(images)[0].detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def test_ultralytics_goes_on_with_it(
    halved: Any, examples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    yolo, boxes = examples
    _, result, _ = halved
    shapes = {name: t.shape for name, t in result.model.state_dict().items()}
    file = on_disk(boxes, tmp_path / "data")
    settings = {"imgsz": SIDE, "device": "cpu", "workers": 0, "plots": False, "verbose": False}
    own = yolo.as_yolo(amc.shrink(result.model, amc.Plan({}, ())))
    own.train(
        trainer=yolo.pruned_trainer(own.model), data=str(file), epochs=1, batch=4,
        project=str(tmp_path / "runs"), **settings,
    )  # fmt: skip
    again = YOLO(str(own.trainer.last))
    assert {name: t.shape for name, t in again.model.state_dict().items()} == shapes
    assert again.val(data=str(file), **settings).box.map >= 0
    assert len(again.predict(str(tmp_path / "data/val/images/0.png"), imgsz=SIDE)) == 1
    exported = again.export(format="onnx", imgsz=SIDE, simplify=False, device="cpu")
    assert Path(exported).is_file()


def on_disk(boxes: Any, folder: Path) -> Path:
    """Drawn images in files, as Ultralytics reads them."""
    from PIL import Image

    for part, count in (("train", 8), ("val", 4)):
        images, targets = boxes.drawn(count, count)
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        for number, (image, target) in enumerate(zip(images, targets, strict=True)):
            pixels = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / part / "images" / f"{number}.png")
            text = "\n".join(" ".join(map(str, row)) for row in rows(target))
            (folder / part / "labels" / f"{number}.txt").write_text(text)
    names = "names: [disc, square, triangle]"
    text = f"path: {folder}\ntrain: train/images\nval: val/images\n{names}\n"
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


def rows(target: Tensor) -> list[list[float]]:
    """Class, middle and size of every box, by the side of the image."""
    return [
        [int(c), (x1 + x2) / 2 / SIDE, (y1 + y2) / 2 / SIDE, (x2 - x1) / SIDE, (y2 - y1) / SIDE]
        for c, x1, y1, x2, y2 in target[target[:, 0] >= 0].tolist()
    ]
