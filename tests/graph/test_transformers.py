"""Architectures that nobody here wrote: Hugging Face's, from their configurations, random weights.

Needs the ``families`` extra; part of the slow suite. The floors are what was measured when the
test was written (see the README's table), rounded down: losing one of them is a regression.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import amc
from amc.objectives.budget import Budget
from oracles import counting, coupled, coupled_by_torch_pruning

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CAUSES = {
    "network input",
    "network output",
    "layer_norm normalises over the channels",
    "group_norm normalises over all channels",
    "mean mixes channels",
    "matmul mixes channels",
    "scaled_dot_product_attention mixes channels",
    "softmax mixes channels",
    "linalg_vector_norm mixes channels",
    "einsum is not known",
    "im2col is not known",
    "col2im is not known",
    "cumsum is not known",
    "index is not known",
    "roll takes channels at positions written in forward",
    "slice takes channels at positions written in forward",
    "select takes channels at positions written in forward",
    "split_with_sizes cuts parts of unequal size out of the channels",
    "reads a constant",
    "has a single channel",
    "no layer writes it",
    "no layer reads it",
}
"""Everything that may keep a group whole in these networks."""


class Family(NamedTuple):
    """How to build a network, its image size, and the part of its MACs that can go at least."""

    build: Callable[[Any], nn.Module]
    size: int
    prunable: float
    halves: bool = True  # a target of 50 % of the MACs can be reached


def detr(tf: Any) -> nn.Module:
    backbone = tf.ResNetConfig(out_features=["stage4"])
    config = tf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, encoder_layers=1, decoder_layers=1,
    )  # fmt: skip
    return tf.DetrForObjectDetection(config)


FAMILIES: dict[str, Family] = {
    "resnet-50": Family(
        lambda tf: tf.ResNetForImageClassification(tf.ResNetConfig()), 224, 0.99
    ),
    "resnet-18": Family(
        lambda tf: tf.ResNetForImageClassification(
            tf.ResNetConfig(
                depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic"
            )
        ),
        64, 0.99,
    ),
    "regnet": Family(lambda tf: tf.RegNetForImageClassification(tf.RegNetConfig()), 64, 0.99),
    "mobilenet-v1": Family(
        lambda tf: tf.MobileNetV1ForImageClassification(tf.MobileNetV1Config()), 64, 0.99
    ),
    "mobilenet-v2": Family(
        lambda tf: tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config()), 64, 0.99
    ),
    "efficientnet": Family(
        lambda tf: tf.EfficientNetForImageClassification(
            tf.EfficientNetConfig(
                image_size=64, hidden_dim=1280, width_coefficient=1.0, depth_coefficient=1.0
            )
        ),
        64, 0.99,
    ),
    "convnext": Family(
        lambda tf: tf.ConvNextForImageClassification(tf.ConvNextConfig()), 64, 0.90
    ),
    "convnext-v2": Family(
        lambda tf: tf.ConvNextV2ForImageClassification(tf.ConvNextV2Config()), 64, 0.0, False
    ),
    "bit": Family(lambda tf: tf.BitForImageClassification(tf.BitConfig()), 64, 0.95),
    "bit-bottleneck": Family(
        lambda tf: tf.BitForImageClassification(tf.BitConfig(layer_type="bottleneck")), 64, 0.95
    ),
    "mobilevit": Family(
        lambda tf: tf.MobileViTForImageClassification(tf.MobileViTConfig()), 64, 0.90
    ),
    "mobilevit-v2": Family(
        lambda tf: tf.MobileViTV2ForImageClassification(tf.MobileViTV2Config()), 64, 0.80
    ),
    "poolformer": Family(
        lambda tf: tf.PoolFormerForImageClassification(tf.PoolFormerConfig()), 64, 0.85
    ),
    "levit": Family(lambda tf: tf.LevitForImageClassification(tf.LevitConfig()), 224, 0.95),
    "segformer": Family(
        lambda tf: tf.SegformerForSemanticSegmentation(tf.SegformerConfig()), 64, 0.90
    ),
    "hgnet-v2": Family(
        lambda tf: tf.HGNetV2ForImageClassification(tf.HGNetV2Config()), 64, 0.99
    ),
    "textnet": Family(
        lambda tf: tf.TextNetForImageClassification(tf.TextNetConfig()), 64, 0.99
    ),
    "cvt": Family(lambda tf: tf.CvtForImageClassification(tf.CvtConfig()), 64, 0.85),
    "pvt-v2": Family(
        lambda tf: tf.PvtV2ForImageClassification(tf.PvtV2Config(image_size=64)), 64, 0.75
    ),
    "focalnet": Family(
        lambda tf: tf.FocalNetForImageClassification(tf.FocalNetConfig(image_size=64)), 64, 0.60
    ),
    "vit": Family(
        lambda tf: tf.ViTForImageClassification(tf.ViTConfig(image_size=64, num_hidden_layers=3)),
        64, 0.90,
    ),
    "glpn (depth)": Family(lambda tf: tf.GLPNForDepthEstimation(tf.GLPNConfig()), 64, 0.93),
    "dpt (depth)": Family(
        lambda tf: tf.DPTForDepthEstimation(
            tf.DPTConfig(image_size=64, num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3])
        ),
        64, 0.85,
    ),
    "detr (detection)": Family(detr, 64, 0.95),
    "superpoint (keypoints)": Family(
        lambda tf: tf.SuperPointForKeypointDetection(tf.SuperPointConfig()), 64, 0.99
    ),
}  # fmt: skip


ATTENTION = {
    "mobilevit", "levit", "segformer", "cvt", "pvt-v2", "vit", "glpn (depth)", "dpt (depth)",
    "detr (detection)",
}  # fmt: skip
"""Of these, those with heads; all of them can go."""


def floats(outputs: Any) -> list[Tensor]:
    return [x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str, record_property: Callable[[str, object], None]) -> None:
    tf = pytest.importorskip("transformers")
    family = FAMILIES[name]
    torch.manual_seed(0)
    given = family.build(tf).eval()
    x = torch.randn(1, 3, family.size, family.size)
    model = amc.bake(given, (x,))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = amc.trace(model, (x,))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    least = graph.cost.macs(graph.counts({g.name: 1 for g in graph.decisions}))
    prunable = 1 - least / graph.macs()
    record_property("prunable", round(prunable, 3))
    record_property("causes", graph.causes)
    assert prunable >= family.prunable
    unexpected = {
        cause
        for cause in graph.causes
        if cause not in CAUSES and "a size is written in forward" not in cause
    }
    assert not unexpected
    heads = [group for group in graph.groups if group.unit == "head"]
    assert all(group.prunable for group in heads)
    assert bool(heads) == (name in ATTENTION)

    if not family.halves:
        with pytest.raises(amc.InfeasibleBudgetError):
            amc.random_plan(graph, 0.5)
        return
    other = torch.randn(2, 3, family.size, family.size)
    for seed in range(2):
        plan = amc.random_plan(graph, 0.5, seed)
        smaller, masked = amc.shrink(model, plan), amc.mask(model, plan)
        with torch.no_grad():
            pairs = list(zip(floats(smaller(other)), floats(masked(other)), strict=True))
        for a, b in pairs:
            assert a.shape == b.shape
            assert (a - b).abs().max() <= 1e-4 * max(float(b.abs().max()), 1e-3)
        with torch.no_grad(), counting() as counter:
            smaller(x)
        budget = Budget(graph, 0.5)
        assert budget.floor <= graph.macs(plan) <= budget.target
        if not graph.other_macs:  # fused attention counts differently
            assert counter.get_total_flops() // 2 == graph.macs(plan)


@pytest.mark.parametrize(
    "name",
    [
        "resnet-18", "resnet-50", "regnet", "mobilenet-v1", "mobilenet-v2", "efficientnet", "bit",
        "hgnet-v2", "textnet", "poolformer", "superpoint (keypoints)",
    ],
)  # fmt: skip
def test_coupled_layers_agree_with_torch_pruning(name: str) -> None:
    """On the families that it gets right; it treats operators it does not know as element-wise."""
    tf = pytest.importorskip("transformers")
    x = torch.randn(1, 3, 64, 64)
    model = amc.bake(FAMILIES[name].build(tf).eval(), (x,))
    assert coupled(amc.trace(model, (x,))) == coupled_by_torch_pruning(model, x)
