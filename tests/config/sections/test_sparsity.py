"""Settings of sparsity: what goes together, what is refused, the epochs of a schedule."""

import json
from pathlib import Path
from typing import Any

import pytest

from amc.config.apply import ApplyConfig
from amc.config.command_line import parse
from amc.config.compare import CompareConfig
from amc.config.composed import as_json, flags, from_json
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.sections.sparsity import SparsityConfig, fixed_level
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError

GIVEN: list[dict[str, Any]] = [
    {"target": "weights", "sparsity": 0.7, "sparsity_init": 0.1, "sparsity_power": 3.0},
    {"target": "blocks", "block": "1x4", "metric": "obs", "sparsity_allocation": "uniform"},
    {"target": "blocks", "block": "2:4"},
    {"target": "channels,weights", "metric": "l1,rb", "finetune_epochs": 9, "sparsity_rate": 0.1},
    {"target": "weights", "sparsity_steps": (2,), "sparsity_levels": (0.25, 0.5)},
    {"target": "weights", "metric": "const", "checkpoint": Path("w.pt")},
    {"target": "weights", "sparsity_allocation": "search", "episodes": 9, "allocator": "sac"},
]


@pytest.mark.parametrize("settings", GIVEN)
def test_settings_come_back_as_words_and_as_json(settings: dict[str, Any]) -> None:
    config = TrainConfig.of(**settings)
    assert parse(TrainConfig, "amc.train", flags(config)) == config
    written = json.loads(json.dumps(as_json(config)))
    assert from_json(TrainConfig, written, Path("x.json")) == config


def test_the_metric_that_counts_is_on_record() -> None:
    for target, given, recorded in (
        ("channels", "lasso", "lasso"),
        ("weights", "lasso", "magnitude"),
        ("blocks", "obs", "obs"),
        ("channels,weights", "lasso", "lasso,magnitude"),
        ("channels,weights", "rb", "lasso,rb"),
        ("heads,weights", "l1", "l1,magnitude"),
        ("channels,weights", "obs", "obs,obs"),
        ("channels,weights", "own:f,const", "own:f,const"),
    ):
        block = {"block": "1x4"} if target == "blocks" else {}
        config = TrainConfig.of(target=target, metric=given, **block)
        assert config.reconstruction.metric == recorded, target
        of_channels, _, of_weights = recorded.partition(",")
        if of_weights:
            assert config.reconstruction.of_channels == of_channels
            assert config.reconstruction.of_weights == of_weights


def test_blocks_and_levels_that_say_how_much() -> None:
    assert fixed_level("2:4") == 0.5 and fixed_level("1:4") == 0.75
    assert fixed_level("16x1") is None and fixed_level("row") is None
    assert SparsityConfig(block="1:4").sparsity == 0.75
    assert SparsityConfig(block="1:4", sparsity=0.75).sparsity == 0.75
    levels = SparsityConfig(sparsity=0.9, sparsity_steps=(1,), sparsity_levels=(0.1, 0.6))
    assert levels.sparsity == 0.6  # the last one wins


def test_folders_name_what_becomes_zero() -> None:
    for settings, name in (
        ({"target": "weights", "sparsity": 0.7}, "weights-0.7"),
        ({"target": "blocks", "block": "2:4", "metric": "obs"}, "blocks-2of4-obs-0.5"),
        ({"target": "weights", "metric": "const"}, "weights-const"),
        ({"target": "channels,weights"}, "auto-0.5-weights-0.5"),
    ):
        assert str(TrainConfig.of(**settings).folder) == f"runs/resnet20-digits-{name}-seed0"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sparsity": 0.7}, "--sparsity belongs to --target weights or blocks, not to channels"),
        (
            {"metric": "rb"},
            "--metric rb: rb chooses weights, --target channels,heads cuts channels and heads",
        ),
        ({"metric": "l1,rb"}, "--metric l1,rb: rb chooses weights"),
        ({"metric": "magnitud"}, "'magnitud' is unknown; .*did you mean 'magnitude'"),
        ({"target": "weights", "metric": "l1"}, "l1 chooses channels; for --target weights all"),
        ({"target": "blocks"}, "--target blocks and --block belong together"),
        ({"target": "weights", "block": "1x4"}, "--block 1x4 belongs to --target blocks, not to"),
        ({"target": "blocks", "block": "4by4"}, "--block '4by4' is unknown; allowed: AxB such as"),
        ({"target": "blocks", "block": "4:2"}, "of every M weights N stay, 0 < N < M"),
        ({"target": "blocks", "block": "1:4", "sparsity": 0.6}, "makes 0.75 of the weights zero"),
        ({"target": "weights", "sparsity": 1.0}, r"--sparsity must be in \[0, 1\), got 1"),
        ({"target": "weights", "sparsity_init": 0.6}, "--sparsity-init 0.6 is above --sparsity"),
        (
            {"target": "weights", "preserve_ratio": 0.4},
            "--preserve-ratio belongs to channels, --t",
        ),
        ({"target": "weights", "mode": "uniform"}, "--mode belongs to channels"),
        ({"target": "weights", "group_size": 2}, "--group-size belongs to channels"),
        ({"target": "weights", "schedule": "agp"}, "--schedule belongs to channels"),
        ({"target": "weights", "episodes": 9}, "--episodes belongs .* --sparsity-allocation sear"),
        ({"target": "weights", "min_channels": {"a": 1}}, "--min-channels belongs to channels"),
        ({"target": "channels,weights", "schedule": "agp"}, "a cut in several stages is for what"),
        ({"target": "channels,weights", "max_drop": 1.0}, "--max-drop is for what is removed"),
        (
            {"target": "weights", "sparsity_schedule": "adaptive", "sparsity_power": 2.0},
            "--sparsity-power belongs to --sparsity-schedule polynomial, not to adaptive",
        ),
        ({"target": "weights", "metric": "rb", "sparsity_power": 2.0}, "polynomial, not to expon"),
        (
            {"target": "weights", "metric": "obs", "sparsity_init": 0.2},
            "adaptive, not to one-shot",
        ),
        ({"target": "weights", "sparsity_rate": 0.1}, "--sparsity-rate belongs to --metric rb"),
        (
            {"target": "weights", "metric": "obs", "sparsity_schedule": "polynomial"},
            "--metric obs chooses once, before training",
        ),
        ({"target": "weights", "metric": "const", "sparsity": 0.7}, "keeps the zeros that there"),
        (
            {"target": "weights", "sparsity_levels": (0.1, 0.2)},
            "must be one more than --sparsity-steps: got 2 levels for 0 steps",
        ),
        (
            {"target": "weights", "sparsity_levels": (0.3, 0.2), "sparsity_steps": (1,)},
            "--sparsity-levels 0.3 0.2: must not fall",
        ),
        (
            {"target": "weights", "sparsity_levels": (0.1, 0.2, 0.3), "sparsity_steps": (2, 2)},
            "--sparsity-steps 2 2: must increase",
        ),
        (
            {"target": "weights", "sparsity_schedule": "adaptive", "sparsity": 0.3},
            "in epoch 5 at the earliest, .* give --finetune-epochs 7 or more",
        ),
        (
            {"target": "weights", "sparsity_target_epoch": 2.0, "sparsity_freeze_epoch": 1.0},
            "--sparsity-freeze-epoch 1 must be above the epoch that reaches the target, 2",
        ),
        ({"target": "weights", "sparsity_target_epoch": 5.0}, "give 6 or more, or an earlier"),
        ({"target": "weights", "finetune": "a:b", "metric": "rb"}, "rb needs the built-in traini"),
    ],
)
def test_contradictions_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(AmcError, match=said) as caught:
        TrainConfig.of(**settings)
    assert "\n" not in str(caught.value)


def test_commands_that_remove_refuse_zeros() -> None:
    for kind in (LearnConfig, ParetoConfig, CompareConfig, ApplyConfig):
        plan = {"plan": Path("x")} if kind is ApplyConfig else {}
        with pytest.raises(AmcError, match=f"{kind.command} removes channels; zeros among weig"):
            kind.of(target="weights", **plan)
        with pytest.raises(AmcError, match="magnitude chooses weights"):
            kind.of(metric="magnitude", **plan)


def test_epochs_leave_time_for_masks_that_stay() -> None:
    """Target and freeze, of every schedule, whatever the training's length."""
    usual = SparsityConfig()
    assert usual.epochs_for("polynomial", 10) == (5.0, 6.0)
    assert usual.epochs_for("polynomial", 1) == (0.5, 0.6)
    assert usual.epochs_for("one-shot", 10) == (0.0, 0.0)
    assert usual.epochs_for("polynomial", 0) == (0.0, 0.0)
    whole = SparsityConfig(sparsity_per_step=False)
    assert whole.epochs_for("exponential", 10) == (5.0, 6.0)
    assert whole.epochs_for("exponential", 4) == (1.0, 2.0)
    later = SparsityConfig(sparsity_target_epoch=90.0)
    assert later.epochs_for("polynomial", 100) == (90.0, 100.0)
    nncf = SparsityConfig(sparsity_target_epoch=90, sparsity_freeze_epoch=100)
    assert nncf.epochs_for("polynomial", 130) == (90, 100)
    steps = SparsityConfig(sparsity_steps=(2, 5), sparsity_levels=(0.1, 0.2, 0.3))
    assert steps.epochs_for("multistep", 10) == (5.0, 6.0)
    slow = SparsityConfig(sparsity_schedule="adaptive", sparsity=0.3, sparsity_patience=2)
    assert slow.epochs_for("adaptive", 20) == (11.0, 19.0)
