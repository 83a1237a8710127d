"""Settings of a run as JSON and as words."""

import json
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path

import pytest

from amc.config.command_line import parse
from amc.config.composed import as_json, from_json
from amc.config.inspect import InspectConfig
from amc.config.train import TrainConfig
from amc.graph.restrictions import Restrictions
from amc.runtime.errors import AmcError

CHANGED = TrainConfig.of(
    preserve_ratio=0.3,
    mode="list",
    model="resnet56",
    width=0.25,
    data="glyphs",
    checkpoint=Path("some where") / "weights.pt",
    strategy=Path("ratios.json"),
    restrictions=Restrictions(
        include=("layer1.*", "Conv2d"), exclude=("fc",), min_channels={"layer1.*": 4, "conv1": 2},
        max_channels={"layer3.*": 9}, prune_first_conv=False, prune_downsample=False,
        prune_residual=False,
    ),
    metric="obs",
    channel_multiple=4,
    min_ratio=0.2,
    calibration_batches=3,
    points_per_layer=0,
    episodes=17,
    agent="sac",
    warmup_episodes=0,
    regime="finetune",
    reward_steps=3,
    time_limit=0.1 + 0.2,
    patience=5,
    workers=3,
    walks=2,
    objective="macs,bits",
    weight_bits=8,
    activation_bits=4,
    layer_weight_bits={"conv1": 16},
    layer_activation_bits={"fc": 2},
    reward="accuracy",
    reward_images=11,
    finalists=1,
    finetune_epochs=0,
    learning_rate=1e-3,
    distill=True,
    temperature=1.5,
    distill_weight=0.5,
    distill_schedule="linear",
    feature_weight=0.25,
    label_smoothing=0.1,
    weight_decay=1e-4,
    clip=2.0,
    ema=0.9,
    mixed=True,
    finetune="own.py:tuned",
    group_size=2,
    schedule_steps=7,
    schedule_parts=(0.25, 0.75),
    adaptive_drop=3.0,
    soft=True,
    stage_epochs=0.3,
    stage_learning_rate=0.01,
    stop_drop=1.5,
    bn_samples=100,
    memory="2GB",
    batch_size=16,
    run_dir=Path("runs/a b"),
    resume=Path("runs/c"),
    trust=True, statistics=True, config=Path("a.json"), write_config="amc:b.json",
    seed=3, export="onnx,int8",
    device="cuda:1",
    quiet=True,
)  # fmt: skip


def test_settings_come_back_from_json_as_they_were() -> None:
    for one in fields(TrainConfig):
        default = one.default if one.default is not MISSING else one.default_factory()
        others = (
            "task",
            "max_drop",
            "channel_ratio",
            "policy",
            "plan",
            "distill",
            "schedule",
            "bn_adapt",
            "sparsity",
        )
        if one.name not in others:
            assert getattr(CHANGED, one.name) != default, f"{one.name}: give it another value"
    # what does not go with the others
    uniform = TrainConfig.of(mode="uniform", channel_ratio=0.7, distill=False, schedule="agp")
    inspect = InspectConfig.of(
        input_shape="3x8x8", num_classes=7, restrictions=CHANGED.restrictions, plot=Path("a.svg"),
        json=Path("a.json"), preserve_ratio=0.5,
    )  # fmt: skip
    learned = TrainConfig.of(mode="policy", policy=Path("runs/a b"), task="own.py:task")
    planned = TrainConfig.of(mode="plan", plan=Path("plan.json"))
    for config in (
        CHANGED,
        uniform,
        learned,
        planned,
        inspect,
        TrainConfig.of(),
        InspectConfig.of(),
    ):
        text = json.dumps(as_json(config), allow_nan=False)
        found = from_json(type(config), json.loads(text), Path("config.json"))
        assert found == config
        assert as_json(found) == json.loads(text)
        for one in fields(config):
            value = getattr(found, one.name)
            assert type(value) is type(getattr(config, one.name)), one.name


def test_settings_that_are_not_there_have_their_defaults() -> None:
    read = partial(from_json, TrainConfig, where=Path("config.json"))
    assert read({}) == TrainConfig.of()
    assert read({"choice": {"exclude": ["fc"]}}).restrictions == Restrictions(exclude=("fc",))
    with pytest.raises(AmcError, match=r"config\.json: unknown setting 'speed'"):
        read({"speed": 3})


def test_settings_of_a_run_come_from_its_command_line(tmp_path: Path) -> None:
    """What is typed is what is in config.json, also after another round."""
    typed = [
        "--min-channels", "layer1.*", "4", "conv1", "2", "--exclude", "fc", "layer3.*",
        "--no-prune-residual", "--agent", "td3", "--time-limit", "1.5", "--run-dir", str(tmp_path),
    ]  # fmt: skip
    config = parse(TrainConfig, "amc.train", typed)
    found = from_json(TrainConfig, json.loads(json.dumps(as_json(config))), tmp_path)
    assert found == config
    assert found.restrictions.min_channels == {"layer1.*": 4, "conv1": 2}
    assert (
        found.restrictions.exclude == ("fc", "layer3.*") and not found.restrictions.prune_residual
    )
