"""Detection: boxes that are counted, boxes that are dropped, and a detector from end to end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amc
from amc.config.train import TrainConfig
from amc.data import Data
from amc.data.loader import TensorLoader
from amc.runtime.errors import AmcError
from amc.tasks import mean_ap
from amc.tasks.detection import detection
from amc.tasks.detectors import detector
from amc.tasks.evaluate import evaluate
from amc.tasks.mean_ap import mean_average_precision
from amc.tasks.suppression import best_boxes, overlaps, suppressed
from amc.tasks.task import load_task
from amc.train import run
from amc.training.distillation import Distillation
from amc.training.teacher_outputs import PrecomputedOutputs, Remembering, precomputed

BOX = [10.0, 10.0, 30.0, 30.0]


def seen(*rows: tuple[list[float], float, int]) -> dict[str, Tensor]:
    boxes, scores, labels = ([row[part] for row in rows] for part in range(3))
    return {
        "boxes": torch.tensor(boxes).view(-1, 4),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels),
    }


def truth(*images: list[list[float]]) -> Tensor:
    most = max(1, *map(len, images))
    nothing = [-1.0, 0, 0, 0, 0]
    return torch.tensor([rows + [nothing] * (most - len(rows)) for rows in images])


def test_precision_counted_by_hand() -> None:
    two = truth([[0, *BOX], [0, 50, 50, 70, 70]])
    half = 51 / 101  # recalls 0 to 0.50 of 101 are reached, at a precision of one
    assert mean_average_precision([([seen((BOX, 0.9, 0))], two)]) == pytest.approx(half)
    # 20 x 20 against 20 x 26 around it: an overlap of 0.769, enough for six of ten thresholds
    wide = [10.0, 7.0, 30.0, 33.0]
    assert mean_average_precision([([seen((wide, 0.9, 0))], two)]) == pytest.approx(0.6 * half)
    # a wrong box of a higher score comes before the right one: a precision of a half
    wrong = seen(([80.0, 80, 90, 90], 0.95, 0), (BOX, 0.9, 0))
    assert mean_average_precision([([wrong], two)]) == pytest.approx(0.5 * half)
    # of the other class there is one, and nobody finds it
    both = truth([[0, *BOX], [1, *BOX]])
    assert mean_average_precision([([seen((BOX, 0.9, 0))], both)]) == pytest.approx(0.5)


def test_nothing_to_be_found_and_nothing_found() -> None:
    assert mean_average_precision([([seen((BOX, 0.9, 0))], truth([]))]) == 0
    assert mean_average_precision([([seen()], truth([[0, *BOX]]))]) == 0
    assert mean_average_precision([]) == 0


def average_precision(found: list[dict[str, Tensor]], targets: Tensor, label: int) -> float:
    """By the definition: for every threshold, boxes in the order of their scores."""
    rows = [
        (float(score), image, box)
        for image, one in enumerate(found)
        for box, score, kind in zip(one["boxes"], one["scores"], one["labels"], strict=True)
        if kind == label
    ]
    rows.sort(key=lambda row: -row[0])
    real = [t[t[:, 0] == label][:, 1:] for t in targets]
    total, means = sum(map(len, real)), []
    for threshold in np.arange(0.5, 0.96, 0.05):
        free, hits = [set(range(len(one))) for one in real], []
        for _, image, box in rows:
            ious = overlaps(box[None], real[image])[0] if len(real[image]) else torch.zeros(0)
            best = max(free[image], key=lambda i: float(ious[i]), default=None)
            hits.append(best is not None and float(ious[best]) >= threshold)
            if hits[-1]:
                free[image].discard(best)
        true = np.cumsum(hits)
        recall, precision = true / total, true / np.arange(1, len(true) + 1)
        reached = [precision[recall >= r - 1e-9].max(initial=0) for r in np.linspace(0, 1, 101)]
        means.append(np.mean(reached))
    return float(np.mean(means))


def test_precision_by_the_definition() -> None:
    rng = torch.Generator().manual_seed(0)
    images, found = [], []
    for _ in range(12):
        corner = 60 * torch.rand(5, 2, generator=rng)
        boxes = torch.cat([corner, corner + 20 + 20 * torch.rand(5, 2, generator=rng)], dim=1)
        labels = torch.randint(0, 2, (5,), generator=rng)
        images.append(torch.cat([labels[:, None], boxes], dim=1))
        moved = torch.cat([boxes + 3 * torch.randn(5, 4, generator=rng), boxes[:3] + 25])
        scores = torch.rand(8, generator=rng)
        found.append(
            {"boxes": moved, "scores": scores, "labels": labels[[0, 1, 2, 3, 4, 0, 1, 2]]}
        )
    targets = torch.stack(images)
    expected = np.mean([average_precision(found, targets, label) for label in (0, 1)])
    batches = [(found[:5], targets[:5]), (found[5:], targets[5:])]
    assert mean_average_precision(batches) == pytest.approx(expected, abs=1e-6)
    assert 0.1 < expected < 0.9


def test_suppression_is_the_loop() -> None:
    rng = torch.Generator().manual_seed(1)
    corner = 50 * torch.rand(200, 2, generator=rng)
    boxes = torch.cat([corner, corner + 15 + 10 * torch.rand(200, 2, generator=rng)], dim=1)
    scores, labels = torch.rand(200, generator=rng), torch.randint(0, 3, (200,), generator=rng)
    expected: list[int] = []
    for one in scores.argsort(descending=True).tolist():
        rivals = [k for k in expected if labels[k] == labels[one]]
        if not rivals or float(overlaps(boxes[one][None], boxes[rivals]).max()) <= 0.4:
            expected.append(one)
    assert suppressed(boxes, scores, labels, 0.4).tolist() == expected
    assert 10 < len(expected) < 190


def test_best_boxes_are_of_every_class() -> None:
    boxes = torch.tensor([[BOX, [11.0, 10, 30, 30], [60.0, 60, 80, 80]]])
    scores = torch.tensor([[[0.9, 0.3], [0.8, 0.2], [0.0, 0.5]]])
    (one,) = best_boxes(boxes, scores)
    assert one["labels"].tolist() == [0, 1, 1]
    assert one["scores"].tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert one["boxes"].tolist() == [BOX, [60.0, 60, 80, 80], BOX]
    (few,) = best_boxes(boxes, scores, most=1)
    assert few["labels"].tolist() == [0]


# a detector from end to end

DETECTOR = '''
import torch, torch.nn.functional as F
from torch import nn
from amc.tasks.suppression import best_boxes

class Dots(nn.Module):
    """One box a place of a 4 x 4 map, two classes; also puts out a map that nobody reads."""
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.scores, self.sides = nn.Conv2d(16, 2, 1), nn.Conv2d(16, 4, 1)
    def forward(self, x):
        map = self.body(x)
        found = {"scores": self.scores(map), "sides": self.sides(map)}
        return (map, found) if self.training else (found["sides"].exp(), map, found)
    def outputs(self, found):
        return found[-1]
    def loss(self, outputs, targets):
        wished = torch.zeros_like(outputs["scores"])
        sides = torch.zeros_like(outputs["sides"])
        image, row = (targets[..., 0] >= 0).nonzero(as_tuple=True)
        label, box = targets[image, row, 0].long(), targets[image, row, 1:]
        x, y = ((box[:, :2] + box[:, 2:]) / 8).long().clamp(0, 3).T
        wished[image, label, y, x] = 1
        middle = torch.stack([x, y], 1) * 4 + 2
        goal = torch.cat([middle - box[:, :2], box[:, 2:] - middle], 1).clamp(min=0.1).log()
        there = F.smooth_l1_loss(outputs["sides"][image, :, y, x], goal)
        return F.binary_cross_entropy_with_logits(outputs["scores"], wished) * 16 + there
    def boxes(self, outputs):
        sides = outputs["sides"].exp().flatten(2)
        place = torch.arange(16, device=sides.device)
        middle = torch.stack([place % 4, place // 4]) * 4 + 2
        boxes = torch.cat([middle - sides[:, :2], middle + sides[:, 2:]], 1).transpose(1, 2)
        return best_boxes(boxes, outputs["scores"].sigmoid().flatten(2).transpose(1, 2))

def network():
    torch.manual_seed(0)
    return Dots()
'''


def squares(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    images, targets = 0.1 * torch.randn(count, 3, 16, 16, generator=rng), []
    for image in images:
        x, y, kind = (int(torch.randint(n, (), generator=rng)) for n in (10, 10, 2))
        image[kind, y : y + 6, x : x + 6] += 1
        targets.append([[kind, x, y, x + 6, y + 6], [-1, 0, 0, 0, 0]])
    return images, torch.tensor(targets, dtype=torch.float32)


def data() -> Data:
    streams = [TensorLoader(*squares(n, n), batch_size=16) for n in (256, 48, 64)]
    train = TensorLoader(*squares(256, 256), batch_size=16, shuffle=True)
    return Data("squares", train, streams[0], streams[1], streams[2], 2, (3, 16, 16))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("detector") / "dots.py"
    path.write_text(DETECTOR)
    return str(path)


@pytest.fixture(scope="module")
def learned(mine: str) -> nn.Module:
    """The detector, after a little training."""
    from amc.runtime.user_code import load_function
    from amc.training.distillation import supervised
    from amc.training.recipe import Recipe
    from amc.training.trainer import train

    network: nn.Module = load_function(f"{mine}:network")()
    loss = supervised(load_task("detection").for_network(network))
    return train(network, data().train, Recipe(10, 0.05, clip=0.2), loss)


def settings(mine: str, **more: Any) -> dict[str, Any]:
    return {
        "task": "detection", "episodes": 2, "warmup_episodes": 1, "finetune_epochs": 1,
        "learning_rate": 0.01, "device": "cpu", "calibration_batches": 2, **more,
    }  # fmt: skip


def test_a_detector_is_cut_and_trained(mine: str, learned: nn.Module) -> None:
    given = data()
    streams = (given.train, given.val, given.test)
    result = amc.compress(learned, *streams, **settings(mine), reward="accuracy")
    report = result.report
    assert report.macs.ratio <= 0.5
    assert report.accuracy["original"] > 0.3
    assert report.accuracy["recovered"] > report.accuracy["original"] - 0.2
    task = load_task("detection").for_network(learned)
    again = evaluate(result.model, given.test, task=task)
    assert again.accuracy == pytest.approx(report.accuracy["recovered"])
    result.model.train()
    assert set(result.model(squares(2, 0)[0])[-1]) == {"scores", "sides"}


def test_the_command_scores_by_map(mine: str, tmp_path: Path) -> None:
    path = Path(mine)
    path.with_name("squares.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_detection import data\n"
    )
    named = {"model": f"{mine}:network", "data": f"{path.with_name('squares.py')}:data"}
    folder = run(TrainConfig.of(run_dir=tmp_path / "x", quiet=True, **named, **settings(mine)))
    found = json.loads((folder / "report.json").read_text())
    assert found["macs"]["ratio"] <= 0.5
    assert 0 <= found["accuracy"]["recovered"] <= 1


def test_maps_that_nobody_reads_are_cut(learned: nn.Module) -> None:
    images = torch.zeros(2, 3, 16, 16)
    whole = amc.trace(learned, (images,))
    assert [g.reason for g in whole.groups if g.name.startswith("body.3")] == ["network output"]
    task = load_task("detection").for_network(learned)
    graph = amc.trace(learned, (images,), None, task.taken)
    assert set(graph.sizes) == {"body.0", "body.3"}
    plan = graph.plan({"body.3": [1, 4, 5]})
    found, expected = (
        model.eval()(squares(2, 0)[0])[-1]
        for model in (amc.shrink(learned, plan), amc.mask(learned, plan))
    )
    assert all(torch.allclose(found[k], expected[k], atol=1e-5) for k in expected)


def test_what_the_teacher_says_is_known_by_heart(learned: nn.Module) -> None:
    task, stream = load_task("detection").for_network(learned), data().calibration
    known = precomputed(learned, stream, task=task)
    assert isinstance(known, PrecomputedOutputs)
    images, targets = squares(256, 256)
    asked = images[[3, 200, 5]], targets[[3, 200, 5]]
    learned.eval()
    losses = [
        Distillation(teacher, task=task)(learned, *asked)
        for teacher in (learned, known, Remembering(known, task), Remembering(learned, task))
    ]
    assert all(torch.allclose(loss, losses[0], atol=1e-5) for loss in losses)


# what is wrong


class Nothing(nn.Module):
    pass


def test_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    task = detection(lambda outputs, targets: outputs.mean(), lambda outputs: [seen()])
    with pytest.raises(AmcError, match=r"targets must be \[B, boxes, 5\].*got \[2\]"):
        task.scored([(torch.zeros(2), torch.zeros(2))])
    with pytest.raises(AmcError, match="boxes must return for each of 2 images a dictionary"):
        task.scored([(torch.zeros(2), torch.zeros(2, 1, 5))])
    with pytest.raises(AmcError, match="Nothing has no methods loss"):
        detector(Nothing())
    unbound = load_task("detection")
    with pytest.raises(AmcError, match="the network is not there yet"):
        unbound.batch_loss(torch.zeros(2), torch.zeros(2, 1, 5))
    monkeypatch.setattr(mean_ap, "find_spec", lambda name: None)
    with pytest.raises(
        AmcError, match=r"--task detection needs the package faster-coco-eval: pip"
    ):
        load_task("detection")


def test_the_package_is_loaded_when_it_counts() -> None:
    code = (
        "import sys, amc; from amc.tasks.task import load_task; load_task('detection');"
        "print([m for m in sys.modules if 'coco' in m or 'torchvision' in m])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_outputs_must_be_tensors() -> None:
    task = amc.Task("x", F.mse_loss, lambda results: 0.0, outputs=lambda found: {"a": 3})
    with pytest.raises(AmcError, match="outputs must return a tensor, or several"):
        task.picked(torch.zeros(1))
