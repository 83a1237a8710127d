"""Networks that nobody here wrote: Hugging Face's, from their configurations, cut and exported.

Needs the ``families`` extra; part of the slow suite.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import amc
from amc.exporters.export import Source, write
from amc.proposals.random_plan import random_plan

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FAMILIES: dict[str, Callable[[Any], nn.Module]] = {
    "resnet": lambda tf: tf.ResNetForImageClassification(
        tf.ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    ),
    "regnet": lambda tf: tf.RegNetForImageClassification(tf.RegNetConfig()),
    "mobilenet-v2": lambda tf: tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config()),
    "convnext": lambda tf: tf.ConvNextForImageClassification(tf.ConvNextConfig()),
    "mobilevit": lambda tf: tf.MobileViTForImageClassification(tf.MobileViTConfig()),
    "segformer": lambda tf: tf.SegformerForSemanticSegmentation(tf.SegformerConfig()),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_half_of_a_network_is_equal_in_onnxruntime(name: str, tmp_path: Path) -> None:
    tf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = FAMILIES[name](tf).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of what it has seen: outputs of a usual size
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64))
    model.eval()
    graph = amc.trace(model, (torch.randn(2, 3, 64, 64),))
    smaller = amc.shrink(model, random_plan(graph, 0.5))
    source = Source(smaller, torch.randn(5, 3, 64, 64))
    written = write(source, tmp_path / "net.onnx", "onnx")
    print(name, written.as_json())
    assert written.error <= 1e-4 and written.batches == (1, 2, 5)
