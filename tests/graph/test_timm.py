"""More than sixty architectures of timm that nobody here wrote, random weights.

Needs timm (an environment with torchvision); part of the slow suite. The floors are the parts of
the MACs that could go when the test was written, rounded down: losing one of them is a regression.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

import amc
from oracles import counting

timm = pytest.importorskip("timm", reason="needs timm, which is no dependency: pip install timm")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Net(NamedTuple):
    """The part of its MACs that can go at least, the size of its images, how to build it."""

    floor: float
    side: int = 64
    options: Mapping[str, Any] = {}


NETS: dict[str, Net] = {
    "resnet18": Net(0.998),
    "resnext50_32x4d": Net(0.997),
    "res2net50_26w_4s": Net(0.998),
    "regnety_002": Net(0.995),
    "regnetz_b16": Net(0.997),
    "efficientnet_b0": Net(0.998),
    "efficientnetv2_rw_t": Net(0.999),
    "mobilenetv2_050": Net(0.994),
    "mobilenetv3_small_050": Net(0.988),
    "mobilenetv4_conv_small": Net(0.997),
    "mobilenetv4_hybrid_medium": Net(0.996),
    "ghostnet_050": Net(0.976),
    "ghostnetv2_100": Net(0.992),
    "mnasnet_small": Net(0.992),
    "fbnetc_100": Net(0.997),
    "mixnet_s": Net(0.993),
    "densenet121": Net(0.998),
    "dla34": Net(0.996),
    "hrnet_w18_small": Net(0.998),
    "vgg11_bn": Net(0.999),
    "inception_v3": Net(0.999, 96),
    "inception_v4": Net(0.999, 96),
    "legacy_xception": Net(0.999),
    "nasnetalarge": Net(0.999, 96),
    "pnasnet5large": Net(0.999, 96),
    "dpn48b": Net(0.995),
    "skresnet18": Net(0.997),
    "resnest14d": Net(0.999),
    "cspresnet50": Net(0.998),
    "cspdarknet53": Net(0.993),
    "darknet53": Net(0.999),
    "repvgg_a0": Net(0.999),
    "mobileone_s0": Net(0.998),
    "nf_resnet26": Net(0.998),
    "nfnet_l0": Net(0.999),
    "convnext_atto": Net(0.871),
    "convnextv2_atto": Net(0.0),
    "edgenext_xx_small": Net(0.762),
    "efficientformer_l1": Net(0.961, 224),
    "fastvit_t8": Net(0.996),
    "levit_128s": Net(0.941, 224),
    "mobilevit_xxs": Net(0.794),
    "mobilevitv2_050": Net(0.994),
    "coatnet_pico_rw_224": Net(0.84, 64, {"img_size": 64}),
    "maxvit_pico_rw_256": Net(0.761, 64, {"img_size": 64}),
    "poolformer_s12": Net(0.867),
    "convmixer_768_32": Net(0.999),
    "rexnet_100": Net(0.998),
    "selecsls42b": Net(0.999),
    "tresnet_m": Net(0.999),
    "hardcorenas_a": Net(0.996),
    "lcnet_050": Net(0.99),
    "tinynet_e": Net(0.994),
    "gernet_s": Net(0.998),
    "bat_resnext26ts": Net(0.9, 256),
    "halonet26t": Net(0.985, 256),
    "lambda_resnet26t": Net(0.957, 256),
    "ese_vovnet19b_dw": Net(0.999),
    "legacy_seresnet18": Net(0.998),
    "ecaresnet26t": Net(0.866),
    "resnetv2_50x1_bit": Net(0.997),
    "starnet_s1": Net(0.996),
    "repghostnet_050": Net(0.984),
    "rdnet_tiny": Net(0.894),
    "inception_next_atto": Net(0.974),
    "repvit_m0_9": Net(0.998),
    "hgnetv2_b0": Net(0.997),
    "visformer_tiny": Net(0.996, 224),
    "swiftformer_xs": Net(0.998, 224),
    "mambaout_femto": Net(0.866),
    "vit_tiny_patch16_224": Net(0.613, 64, {"img_size": 64, "depth": 4}),
    "deit_tiny_patch16_224": Net(0.605, 64, {"img_size": 64, "depth": 4}),
    "swin_tiny_patch4_window7_224": Net(0.633, 64, {"img_size": 64, "window_size": 2}),
    "mixer_s32_224": Net(0.916, 64, {"img_size": 64}),
}


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """Random weights, in place: zeros and scales of 1e-6 to begin with would hide much."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * p[0].numel() ** -0.5)
            elif p.ndim == 1:
                low, high = (-0.3, 0.3) if name.endswith("bias") else (0.5, 1.5)
                p.copy_(low + (high - low) * torch.rand(p.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_var is not None:
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                uneven = 0.5 + torch.rand(module.num_features, generator=generator)
                module.running_var.copy_(uneven)
    return model


def uneven_plan(graph: amc.ChannelGraph, seed: int) -> amc.Plan:
    """Random channels of every group, and random counts: groups of one size differ."""
    rng = np.random.default_rng(seed)
    keep = {}
    for group in graph.decisions:
        least, most = group.bounds
        count = int(rng.integers(least, most + 1))
        keep[group.name] = np.sort(rng.permutation(group.size)[:count])
    return graph.plan(keep)


def floats(outputs: Any) -> list[Tensor]:
    return [x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]


def can_go(graph: amc.ChannelGraph) -> float:
    """The part of the MACs that goes where every group keeps as little as it may."""
    least = {group.name: group.bounds[0] for group in graph.decisions}
    return 1 - graph.cost.macs(graph.counts(least)) / graph.macs()


@pytest.mark.parametrize("name", NETS)
def test_timm(name: str, record_property: Any) -> None:
    net = NETS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **net.options).eval()
    x = torch.randn(1, 3, net.side, net.side)
    begin = time.perf_counter()
    baked = amc.bake(model, (x,))
    graph = amc.trace(baked, (x,))
    record_property("seconds", round(time.perf_counter() - begin, 1))
    record_property("macs", graph.macs())
    record_property("can go", round(can_go(graph), 4))
    record_property("causes", graph.causes)
    record_property("reasons", {g.name: g.reason for g in graph.groups if g.reason})
    assert all(group.reason.strip() for group in graph.groups if not group.prunable)
    with torch.no_grad(), counting() as counter:
        baked(x)
    assert counter.get_total_flops() // 2 == graph.macs()

    other = torch.randn(2, 3, net.side, net.side)
    random = shaken(baked, 1)
    for seed in range(2):
        plan = uneven_plan(graph, seed)
        smaller = amc.shrink(random, plan)
        with torch.no_grad(), counting() as counter:
            smaller(x)
        assert counter.get_total_flops() // 2 == graph.macs(plan)
        with torch.no_grad():
            found = floats(smaller.double()(other.double()))
            expected = floats(amc.mask(random, plan).double()(other.double()))
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            assert b.std() > 0 and (a - b).abs().max() <= 1e-7 * b.abs().max()
    assert can_go(graph) >= net.floor
