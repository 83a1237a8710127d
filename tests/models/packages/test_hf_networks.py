"""Networks of `transformers` from folders and configurations; nothing is unpickled or fetched."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amc.data.arrays.preprocessing import Preprocessing
from amc.models.catalog import build, expected, facts
from data_streams import Payload, refused

tf = pytest.importorskip("transformers", reason="needs amc-pruning[hf]")
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
LABELS = {0: "dog", 1: "cat", 2: "bird"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Any]:
    """A folder as save_pretrained writes it, and the network in it."""
    torch.manual_seed(1)
    model = tf.ResNetForImageClassification(tf.ResNetConfig(**SMALL, id2label=LABELS)).eval()
    model.save_pretrained(tmp_path / "net")
    processor = tf.ConvNextImageProcessor(
        size={"shortest_edge": 64}, crop_pct=0.9, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    processor.save_pretrained(tmp_path / "net")
    return tmp_path / "net", model


def test_a_folder_with_weights(saved: tuple[Path, Any]) -> None:
    folder, model = saved
    found = build(f"hf:{folder}", num_classes=3, in_channels=3, weights=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(found(images).logits, model(images).logits)
    about = facts(f"hf:{folder}")
    assert about and (about.classes, about.channels) == (3, 3) and about.preprocessing
    assert about.preprocessing == Preprocessing(
        64, 0.9, False, (0.5,) * 3, (0.25,) * 3, Image.Resampling.BICUBIC,
        labels=("dog", "cat", "bird"), source=f"hf:{folder}",
    )  # fmt: skip
    assert expected(["resnet20", f"hf:{folder}"]) == about.preprocessing


def test_a_head_for_other_classes_is_refused(saved: tuple[Path, Any]) -> None:
    def other() -> None:
        build(f"hf:{saved[0]}", num_classes=5, in_channels=3, weights=True)

    refused(other, "3 outputs", "5 classes", "--checkpoint FILE")
    random = build(f"hf:{saved[0]}", num_classes=5, in_channels=1)
    assert random.eval()(torch.randn(1, 1, 32, 32)).logits.shape == (1, 5)


def test_a_configuration_alone(saved: tuple[Path, Any], tmp_path: Path) -> None:
    alone = tmp_path / "alone.json"
    alone.write_bytes((saved[0] / "config.json").read_bytes())
    first, again = (
        build(f"hf:{alone}", num_classes=7, in_channels=3, weights=True) for _ in range(2)
    )
    images = torch.randn(1, 3, 32, 32)
    assert first.eval()(images).logits.shape == (1, 7)
    assert torch.equal(first(images).logits, again.eval()(images).logits)
    about = facts(f"hf:{alone}")
    assert about and not about.weights and about.preprocessing is None and about.note


def test_pickles_are_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = saved
    (folder / "model.safetensors").unlink()
    torch.save(
        {**model.state_dict(), "x": Payload(tmp_path / "mark")}, folder / "pytorch_model.bin"
    )

    def load() -> None:
        build(f"hf:{folder}", num_classes=3, in_channels=3, weights=True)

    refused(load, "pytorch_model.bin", "may hold code")
    assert not (tmp_path / "mark").exists()


def test_code_that_comes_with_a_network_is_not_run(saved: tuple[Path, Any]) -> None:
    folder, mark = saved[0], saved[0] / "mark"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(mark)!r}, 'w')")
    refused(lambda: facts(f"hf:{folder}"), f"hf:{folder}")
    assert not mark.exists()


def test_weights_that_lack_a_part_are_refused(saved: tuple[Path, Any]) -> None:
    folder, model = saved
    model.resnet.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["ResNetForImageClassification"], "id2label": LABELS}
    (folder / "config.json").write_text(json.dumps(config))

    def load() -> None:
        build(f"hf:{folder}", num_classes=3, in_channels=3, weights=True)

    refused(load, "lack", "classifier", "train it")


def test_without_network_in_one_line(tmp_path: Path) -> None:
    refused(lambda: facts("hf:org/none"), "hf:org/none", "without network: hf:/path")
    refused(lambda: facts(f"hf:{tmp_path}"), "no such file", "config.json")


PROCESSORS = {
    "ViTImageProcessor": {"size": {"height": 48, "width": 48}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 64}, "crop_pct": 0.8},
    "BitImageProcessor": {"size": {"shortest_edge": 72},
                          "crop_size": {"height": 64, "width": 64}},
    "MobileNetV2ImageProcessor": {},
    "LevitImageProcessor": {},
    "PoolFormerImageProcessor": {},
    "EfficientNetImageProcessor": {"include_top": True},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 80},
                                "crop_size": {"height": 64, "width": 64}},
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_image_processors_are_followed(saved: tuple[Path, Any], name: str) -> None:
    folder, _ = saved
    processor = getattr(tf, name)(**PROCESSORS[name])
    processor.save_pretrained(folder)
    about = facts(f"hf:{folder}")
    assert about and about.preprocessing, about
    shown, rng = about.preprocessing, np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    picture = small.resize((390, 270), Image.Resampling.BICUBIC)
    theirs = processor(picture, return_tensors="np")["pixel_values"][0]
    pixels = shown.pixels(picture, shown.centre(*picture.size)).transpose(2, 0, 1) / 255
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in shown.normalise)
    assert np.abs((pixels - mean) / std - theirs).mean() < 0.1 * theirs.std()


def test_an_image_processor_that_is_not_followed_is_said(saved: tuple[Path, Any]) -> None:
    tf.PerceiverImageProcessor().save_pretrained(saved[0])
    about = facts(f"hf:{saved[0]}")
    assert about and about.preprocessing is None and "PerceiverImageProcessor" in about.note
