"""NNCF's configurations of sparsity: the documented examples, defaults, mistakes, the way back."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc.config.formats.files import read, settings_in, write
from amc.config.formats.nncf_sparsity import settled
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError

EXAMPLES = Path(__file__).parents[3] / "examples" / "configs"

MAGNITUDE = {
    "target": "weights", "metric": "normed_magnitude", "sparsity": 0.5,
    "sparsity_schedule": "polynomial", "sparsity_power": 0.9, "sparsity_convex": False,
    "sparsity_target_epoch": 90.0, "sparsity_freeze_epoch": 100.0, "sparsity_per_step": False,
    "sparsity_allocation": "global", "finetune_epochs": 101, "bn_samples": 2000,
}  # fmt: skip
RB = {
    "target": "weights", "metric": "rb", "sparsity": 0.5, "sparsity_schedule": "exponential",
    "sparsity_target_epoch": 90.0, "sparsity_freeze_epoch": 100.0, "sparsity_per_step": False,
    "sparsity_allocation": "global", "finetune_epochs": 101, "bn_adapt": False,
}  # fmt: skip
STEPPED = {
    "target": "weights", "metric": "rb", "sparsity": 0.6, "sparsity_schedule": "multistep",
    "sparsity_steps": (3, 6), "sparsity_levels": (0.3, 0.5, 0.6), "sparsity_freeze_epoch": 10.0,
    "sparsity_allocation": "global", "finetune_epochs": 12, "bn_adapt": False,
}  # fmt: skip
CONST = {"target": "weights", "metric": "const", "bn_adapt": False}


def saved(folder: Path, content: Any) -> Path:
    (path := folder / "c.json").write_text(json.dumps(content, indent=1))
    return path


def sparse(algorithm: str = "magnitude_sparsity", **fields: Any) -> dict[str, Any]:
    return {"compression": {"algorithm": algorithm, **fields}}


@pytest.mark.parametrize(
    ("name", "settings", "notes"),
    [
        ("7_rb_sparsity", STEPPED, ("patience", "sparsity_target_epoch", "sparsity_target",
                                    "sparsity_init")),
        (
            "8_magnitude_sparsity",
            {
                **MAGNITUDE, "metric": "magnitude", "sparsity": 0.8, "sparsity_init": 0.1,
                "sparsity_power": 3.0, "sparsity_target_epoch": 4.0, "bn_samples": 512,
                "sparsity_freeze_epoch": 5.0, "finetune_epochs": 6, "exclude": ("fc",),
            },
            (),
        ),
        ("9_const_sparsity", CONST, ("quantization",)),
        (
            "10_pruning_and_sparsity",
            {
                **RB, "target": "channels,weights", "metric": "l2,rb", "mode": "uniform",
                "preserve_ratio": 0.7, "prune_first_conv": False, "prune_downsample": False,
                "sparsity_target_epoch": 6.0, "sparsity_freeze_epoch": 8.0, "finetune_epochs": 9,
                "bn_samples": 2000,
            },
            (),
        ),
    ],
)  # fmt: skip
def test_the_documented_examples(
    name: str, settings: dict[str, Any], notes: tuple[str, ...]
) -> None:
    found = read(EXAMPLES / f"nncf_{name}.json")
    settings = {**settings}
    if "bn_samples" in settings:
        settings.pop("bn_adapt", None)
    assert found.settings == settings
    assert [note.partition(":")[0] for note in found.notes] == sorted(notes, key=notes.index)
    TrainConfig.of(**settings)


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (sparse(), MAGNITUDE),
        (sparse("rb_sparsity"), RB),
        (sparse("const_sparsity"), CONST),
        (sparse("rb_sparsity")["compression"], RB),  # an entry as the documentation shows it
        (sparse(params={"weight_importance": "abs", "sparsity_level_setting_mode": "local"}),
         {**MAGNITUDE, "metric": "magnitude", "sparsity_allocation": "uniform"}),
        (sparse(params={"concave": False, "update_per_optimizer_step": True}),
         {**MAGNITUDE, "sparsity_convex": True, "sparsity_per_step": True}),
        (sparse("rb_sparsity", compression_lr_multiplier=3), {**RB, "sparsity_rate": 0.003}),
        ({**sparse("rb_sparsity"), "compression_lr_multiplier": 2},
         {**RB, "sparsity_rate": 0.002}),
        (sparse("rb_sparsity", params={"schedule": "adaptive", "patience": 3}),
         {k: v for k, v in {**RB, "sparsity_schedule": "adaptive", "sparsity_patience": 3}.items()
          if k not in ("sparsity_target_epoch", "sparsity_per_step")}),
        (sparse(params={"schedule": "multistep"}),  # NNCF's default steps and levels
         {k: v for k, v in {
             **MAGNITUDE, "sparsity_schedule": "multistep", "sparsity_steps": (90,),
             "sparsity_levels": (0.1, 0.5)}.items()
          if k not in ("sparsity_target_epoch", "sparsity_per_step", "sparsity_power",
                       "sparsity_convex")}),
        (sparse("rb_sparsity", params={"sparsity_init": 0.1, "sparsity_steps": 3,
                                       "sparsity_training_steps": 7}),
         {**RB, "sparsity_init": 0.1, "sparsity_target_epoch": 3.0, "sparsity_freeze_epoch": 7.0,
          "finetune_epochs": 8}),
        ({**sparse("const_sparsity"), "epochs": 3}, {**CONST, "finetune_epochs": 3}),
        (sparse("rb_sparsity", initializer={
            "batchnorm_adaptation": {"num_bn_adaptation_samples": 64}}),
         {**{k: v for k, v in RB.items() if k != "bn_adapt"}, "bn_samples": 64}),
        (sparse(initializer={"batchnorm_adaptation": {"num_bn_adaptation_samples": 0}}),
         {**{k: v for k, v in MAGNITUDE.items() if k != "bn_samples"}, "bn_adapt": False}),
    ],
)  # fmt: skip
def test_fields_and_defaults_of_the_schema(
    tmp_path: Path, content: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert read(saved(tmp_path, content)).settings == settings


def test_a_training_script_has_more_at_the_root(tmp_path: Path) -> None:
    """Modelled on a configuration of NNCF's own scripts."""
    path = saved(tmp_path, {
        "model": "resnet50", "pretrained": True, "num_classes": 1000, "batch_size": 64,
        "epochs": 14, "target_device": "ANY", "optimizer": {"type": "Adam", "base_lr": 0.001},
        "compression": [
            {"algorithm": "rb_sparsity", "sparsity_init": 0.01,
             "params": {"sparsity_target_epoch": 5, "sparsity_freeze_epoch": 10}},
            {"algorithm": "quantization"}, {"algorithm": "knowledge_distillation", "type": "mse"},
        ],
    })  # fmt: skip
    found = read(path)
    assert found.settings["finetune_epochs"] == 14
    assert found.notes == (
        "not read, of a training script: model, pretrained, num_classes, batch_size, "
        "target_device, optimizer",
        "quantization: not done here; --export int8 writes the network in 8 bits",
        "knowledge_distillation: not read; --distill, the default, does it",
    )


def steps(levels: Any, at: Any) -> dict[str, Any]:
    params = {"multistep_steps": at, "multistep_sparsity_levels": levels}
    return sparse(params={"schedule": "multistep", **params})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (steps([0.1, 0.2], [1, 2]), "multistep_sparsity_levels needs one level more than steps, 2 "
         r"steps 3 levels, got \[0.1, 0.2\]"),
        (steps([0.5, 0.2], [1]), "--sparsity-levels 0.5 0.2: must not fall"),
        (steps([0.1, 1], [1]), r"multistep_sparsity_levels must be a list of numbers in \[0, 1\)"),
        (steps([0.1, 0.2], [1.5]), "multistep_steps must be whole numbers"),
        (steps([], []), "multistep_sparsity_levels must be a list of numbers"),
        (sparse("rb_sparsity", params={"weight_importance": "abs"}), "unknown field of params"),
        (sparse("rb_sparsity", params={"sparsity_level_setting_mode": "local"}),
         "sparsity_level_setting_mode must be global"),
        (sparse(params={"sparsity_level_setting_mode": "layer"}), "must be one of global, local"),
        (sparse(params={"sparsity_freeze_epoch": 20}), "--sparsity-freeze-epoch 20 must be above"),
        ({**sparse(), "epochs": 50}, "masks change up to epoch 100, --finetune-epochs 50 end"),
        (sparse(params={"sparsity_target": 1}), r"sparsity_target must be in \[0, 1\), got 1"),
        (sparse(params={"sparsity_targt": 0.5}), "did you mean sparsity_target"),
        (sparse(params={"schedule": "baseline"}), "schedule must be one of polynomial, exp"),
        (sparse(sparsity_init=0.7), "--sparsity-init 0.7 is above --sparsity 0.5"),
        (sparse(sparsity_init=0.1, params={"sparsity_init": 0.1}), "sparsity_init is given twice"),
        (sparse(params={"sparsity_steps": 3, "sparsity_target_epoch": 3}), "is the old name of"),
        (sparse("rb_sparsity", compression_lr_multiplier=0), "must be above 0, got 0"),
        (sparse("const_sparsity", params={}), "unknown field of const_sparsity: 'params'"),
        ({"compression": [{"algorithm": "rb_sparsity"}, {"algorithm": "const_sparsity"}]},
         "rb_sparsity and const_sparsity; expected one of rb_sparsity, magnitude_sparsity, const"),
        ({"compression": [{"algorithm": "filter_pruning"},
                          {"algorithm": "const_sparsity", "ignored_scopes": "fc"}]},
         "both algorithms need the same scopes"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(tmp_path: Path, content: Any, words: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(AmcError, match=words) as caught:
        settings_in(path)
    assert str(path) in str(caught.value)


def test_flags_beside_a_file(tmp_path: Path) -> None:
    """Its epochs belong to its length, its curve to its schedule, its levels to its target."""
    (path := tmp_path / "c.json").write_text(json.dumps(sparse(sparsity_init=0.2)))
    found = settings_in(path, {"finetune_epochs": "3"})
    assert not {"sparsity_target_epoch", "sparsity_freeze_epoch"} & set(found)
    found = settings_in(path, {"sparsity_schedule": "one-shot"})
    assert {k for k in found if k.startswith("sparsity")} == {
        "sparsity", "sparsity_schedule", "sparsity_allocation"}  # fmt: skip
    stepped = EXAMPLES / "nncf_7_rb_sparsity.json"
    found = settings_in(stepped, {"sparsity": "0.9"})
    assert not {"sparsity_steps", "sparsity_levels", "sparsity_schedule"} & set(found)
    TrainConfig.of(**{**found, "sparsity": 0.9})


LEVEL = st.floats(0, 0.99)
SCHEDULED = st.one_of(
    st.fixed_dictionaries({}, optional={
        "schedule": st.just("polynomial"), "power": st.floats(0.1, 5), "concave": st.booleans(),
        "sparsity_target_epoch": st.integers(0, 40), "update_per_optimizer_step": st.booleans(),
    }),
    st.fixed_dictionaries({"schedule": st.just("exponential")}, optional={
        "sparsity_target_epoch": st.floats(0, 40),
    }),
    st.fixed_dictionaries({"schedule": st.just("adaptive")}, optional={
        "patience": st.integers(1, 2),
    }),
    st.just({"schedule": "multistep", "multistep_steps": [5, 2],
             "multistep_sparsity_levels": [0.25, 0.5, 0.75]}),
)  # fmt: skip


@settings(max_examples=50)
@given(
    algorithm=st.sampled_from(["rb_sparsity", "magnitude_sparsity", "const_sparsity"]),
    params=SCHEDULED,
    more=st.fixed_dictionaries({}, optional={
        "sparsity_target": st.floats(0.5, 0.99), "sparsity_freeze_epoch": st.integers(91, 200),
    }),
    importance=st.sampled_from(["abs", "normed_abs"]),
    mode=st.sampled_from(["global", "local"]),
    times=st.none() | st.floats(0.1, 10),
    first=st.floats(0, 0.4),
    samples=st.none() | st.integers(0, 4000),
    scopes=st.lists(st.sampled_from(["conv1", "layer1.*", "{re}layer[12]"])),
    pruned=st.booleans(),
)  # fmt: skip
def test_what_is_read_is_written_and_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    algorithm: str,
    params: dict[str, Any],
    more: dict[str, Any],
    importance: str,
    mode: str,
    times: float | None,
    first: float,
    samples: int | None,
    scopes: list[str],
    pruned: bool,
) -> None:
    entry: dict[str, Any] = {"algorithm": algorithm, "ignored_scopes": scopes}
    if algorithm != "const_sparsity":
        entry |= {"params": {**params, **more}, "sparsity_init": first}
    if algorithm == "magnitude_sparsity":
        entry["params"] |= {"weight_importance": importance, "sparsity_level_setting_mode": mode}
        if samples is not None:
            inner = {"num_bn_adaptation_samples": samples}
            entry["initializer"] = {"batchnorm_adaptation": inner}
    if algorithm == "rb_sparsity" and times is not None:
        entry["compression_lr_multiplier"] = times
    beside = [{"algorithm": "filter_pruning", "ignored_scopes": scopes}] if pruned else []
    folder = tmp_path_factory.mktemp("nncf")
    (folder / "a.json").write_text(json.dumps({"compression": [entry, *beside]}))
    config = TrainConfig.of(**settings_in(folder / "a.json"))
    assert write(f"nncf:{folder / 'b.json'}", config) == []
    again = TrainConfig.of(**settings_in(folder / "b.json"))
    if times is not None:  # a rate, divided and multiplied
        assert again.sparsity.sparsity_rate == pytest.approx(config.sparsity.sparsity_rate)
        again = again.but(sparsity_rate=config.sparsity.sparsity_rate)
    assert again == config


def test_what_follows_from_the_epochs_is_written(tmp_path: Path) -> None:
    """A run that says neither schedule nor epochs of it."""
    config = TrainConfig.of(
        target="weights", metric="rb", sparsity=0.7, finetune_epochs=10, bn_adapt=False
    )
    assert write(f"nncf:{tmp_path / 'b.json'}", config) == []
    entry = json.loads((tmp_path / "b.json").read_text())
    assert entry["epochs"] == 10
    target, freeze = config.sparsity.epochs_for("exponential", 10)
    assert entry["compression"]["params"]["sparsity_target_epoch"] == target
    assert entry["compression"]["params"]["sparsity_freeze_epoch"] == freeze
    assert settled(TrainConfig.of(**settings_in(tmp_path / "b.json"))) == settled(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "blocks", "block": "2:4"}, "--target blocks: NNCF zeroes single weights"),
        ({"metric": "obs"}, "--metric obs: of weights NNCF has rb, normed_magnitude, magnitude"),
        ({"sparsity_allocation": "search"}, "--sparsity-allocation search: NNCF has global, u"),
        ({"sparsity_schedule": "one-shot"}, "--sparsity-schedule one-shot: NNCF has polynomial"),
        ({"bn_samples": None}, "--bn-samples: NNCF adapts batch norm on a number of images"),
        ({"target": "heads,weights", "metric": "l2,magnitude", "mode": "uniform"},
         "--target heads,weights: cannot be said there"),
    ],
)  # fmt: skip
def test_what_nncf_has_no_word_for(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    config = TrainConfig.of(**{"target": "weights", "bn_samples": 100, **settings})
    with pytest.raises(AmcError, match=words):
        write(f"nncf:{tmp_path / 'b.json'}", config)
    assert not (tmp_path / "b.json").exists()
