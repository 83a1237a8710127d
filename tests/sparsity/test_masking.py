"""Masks that follow a schedule: what RB learns in a short training, and at which rate."""

import pytest
import torch
from torch import Tensor, nn

from amc.sparsity.bernoulli import attach_bernoulli
from amc.sparsity.levels import Levels
from amc.sparsity.masking import Drawn, Zeros
from amc.sparsity.masks import masks_of
from amc.sparsity.patterns import PLAIN

STEPS = 50


class Sum(nn.Module):
    """A weighted sum in which 30 of 100 weights are large; they are not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.large = torch.randperm(100) < 30
        self.weight = nn.Parameter(torch.where(self.large, 1.0, 0.05)[None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight[0]


def drawn(model: nn.Module, reaches: float, rate: float | None) -> Drawn:
    attach_bernoulli(model, ["weight"])
    zeros = Zeros({"weight": PLAIN}, 0.7)
    levels = Levels("exponential", 0.7, reaches=reaches, freeze=1.2 * reaches, per_step=True)
    return Drawn(model, zeros, levels, STEPS, rate, seed=0)


@pytest.mark.parametrize(
    ("reaches", "given", "rate"),
    [(4, None, 0.03), (0.1, None, 1.2), (1000, None, 1e-3), (4, 0.2, 0.2), (0, None, 6.0)],
)
def test_the_rate_follows_from_the_steps(reaches: float, given: float | None, rate: float) -> None:
    assert drawn(Sum(), reaches, given).rate == pytest.approx(rate)


def test_a_short_training_puts_out_what_matters_little() -> None:
    """By itself, at the rate of its length; at NNCF's no logit gets below zero."""
    for rate, least, most in ((None, 0.65, 0.75), (1e-3, 0.0, 0.0)):
        model = Sum()
        masks = drawn(model.train(), 4, rate)
        generator = torch.Generator().manual_seed(0)
        for step in range(5 * STEPS):
            masks.before_step(step)
            x = torch.randn(16, 100, generator=generator)
            loss = (model(x) - x @ torch.where(model.large, 1.0, 0.05)).square().mean()
            if (more := masks.penalty()) is not None:
                masks.parameters[0].grad = None
                (loss + more).backward()
            masks.after_step()
        assert masks.settled and masks.learned is not None
        assert least <= masks.learned <= most
        kept = masks_of(model)["weight"].current()[0]
        assert int(kept.sum()) == 30
        if rate is None:
            assert int((kept & model.large).sum()) >= 28
