"""Masks that are drawn: probabilities, gradients, the loss, and what they end with."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from amc.sparsity.account import layer_levels, level_of
from amc.sparsity.bernoulli import (
    FIRST_LOGIT,
    BernoulliMask,
    attach_bernoulli,
    bernoulli_masks,
    density_loss,
    draw,
    freeze,
)
from amc.sparsity.masks import masks_of, strip
from amc.sparsity.patterns import SINGLE, Pattern


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 5))


def masked(text: str = "") -> tuple[nn.Module, dict[str, BernoulliMask]]:
    model = network()
    return model, attach_bernoulli(model, ["0.weight", "3.weight"], Pattern.parse(text))


def test_a_unit_is_there_as_often_as_its_logit_says() -> None:
    layer = nn.Linear(200, 200)
    mask = attach_bernoulli(layer, ["weight"])["weight"]
    assert torch.full((40000,), FIRST_LOGIT).equal(mask.logits)
    for probability in (0.99, 0.5, 0.2):
        with torch.no_grad():
            mask.logits.fill_(math.log(probability / (1 - probability)))
        draw({"weight": mask}, 1)
        seen = float((layer.weight != 0).float().mean())
        assert seen == pytest.approx(probability, abs=4 * math.sqrt(0.25 / 40000))


def test_one_mask_for_a_step_and_another_for_the_next() -> None:
    model, masks = masked()
    with torch.no_grad():
        for mask in masks.values():
            mask.logits.zero_()
    x = torch.randn(2, 4, 4, 4)
    draw(masks, 7)
    first = model(x)
    assert model(x).equal(first)
    assert copy.deepcopy(model)(x).equal(first)
    draw(masks, 8)
    assert not model(x).equal(first)
    draw(masks, 7)
    assert model(x).equal(first)
    draw(masks, 7, seed=1)
    assert not model(x).equal(first)


def test_the_gradient_passes_the_threshold() -> None:
    """dL/ds = sum over the unit of w dL/dw eps', with the derivative of the sigmoid for eps'."""
    for text in ("", "1x4", "row"):
        model, masks = masked(text)
        mask, layer = masks["3.weight"], model[3]  # type: ignore[index]
        with torch.no_grad():
            mask.logits.copy_(torch.randn(mask.logits.shape))
        draw(masks, 1)
        x = torch.randn(3, 24)
        (layer(x) * torch.arange(15.0).reshape(3, 5)).sum().backward()
        dense = layer.parametrizations.weight.original
        by_weight = torch.arange(15.0).reshape(3, 5).t() @ x
        soft = (mask.logits + mask.noise).sigmoid().detach()
        pattern = Pattern.parse(text)
        over = pattern.expanded((soft > 0.5).float(), (5, 24))
        assert torch.allclose(dense.grad, by_weight * over, atol=1e-4)
        slope = soft * (1 - soft)
        inside = pattern.pooled(by_weight * dense.detach()) * pattern.zeros((5, 24))
        assert mask.logits.grad is not None
        assert torch.allclose(mask.logits.grad, slope * inside, atol=1e-4, rtol=1e-4)


def test_the_loss_by_hand() -> None:
    _, masks = masked()
    with torch.no_grad():
        masks["0.weight"].logits.fill_(math.log(0.8 / 0.2))
        masks["3.weight"].logits.fill_(math.log(0.3 / 0.7))
    units = [masks[n].logits.numel() for n in ("0.weight", "3.weight")]
    density = (0.8 * units[0] + 0.3 * units[1]) / sum(units)
    found = density_loss(masks, 0.7)
    assert found.item() == pytest.approx(((density - 0.3) / 0.05) ** 2, rel=1e-5)
    found.backward()
    assert all(m.logits.grad is not None and (m.logits.grad > 0).all() for m in masks.values())


def test_a_mask_at_test_time_is_no_draw() -> None:
    model, masks = masked()
    with torch.no_grad():
        masks["3.weight"].logits.copy_(torch.randn(120))
    draw(masks, 3)
    x = torch.randn(2, 4, 4, 4)
    model.eval()
    out = model(x)
    draw(masks, 4)
    assert model(x).equal(out)
    gone = (masks["3.weight"].logits <= 0).reshape(5, 24)
    assert (model[3].weight == 0).equal(gone)  # type: ignore[index]
    assert strip(copy.deepcopy(model))(x).equal(out)


@pytest.mark.parametrize("text", ["", "1x4", "2:4", "row"])
def test_frozen_masks_are_exact_and_stay(text: str) -> None:
    model, masks = masked(text)
    pattern, generator = Pattern.parse(text), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for mask in masks.values():
            mask.logits.copy_(torch.randn(mask.logits.shape, generator=generator))
    freeze(masks, 0.5, pattern)
    layers = layer_levels(model)
    wanted = 0.5 * sum(x.weights for x in layers)
    if pattern in (SINGLE, Pattern.parse("2:4")):
        assert level_of(layers) == 0.5
    assert abs(sum(x.zeros for x in layers) - wanted) <= 24 / 2  # half a row
    x, seen = torch.randn(2, 4, 4, 4), model.eval()(torch.ones(2, 4, 4, 4))
    model.train()
    draw(masks, 9)
    out: Tensor = model(x)
    assert out.equal(strip(copy.deepcopy(model))(x))
    out.sum().backward()
    assert all(m.logits.grad is None or not m.logits.grad.any() for m in masks.values())
    other = network()
    attach_bernoulli(other, ["0.weight", "3.weight"], pattern)
    other.load_state_dict(model.state_dict())
    assert other.eval()(torch.ones(2, 4, 4, 4)).equal(seen)
    assert bernoulli_masks(other).keys() == masks_of(other).keys() == masks.keys()


def test_the_highest_logits_stay() -> None:
    model, masks = masked()
    with torch.no_grad():
        for mask in masks.values():
            mask.logits.copy_(-torch.rand(mask.logits.shape))  # none would be there by itself
    before = {n: m.logits.detach().clone() for n, m in masks.items()}
    freeze(masks, 0.7)
    logits = torch.cat(list(before.values()))
    kept = torch.cat([m.current().flatten() for m in masks_of(model).values()])
    assert int(kept.sum()) == len(kept) - round(0.7 * len(kept))
    assert bool(logits[kept].min() > logits[~kept].max())
