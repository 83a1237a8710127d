"""NNCF's configurations of filter pruning: the documented examples, scopes, mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc.config.formats.files import read, settings_in, write
from amc.config.formats.nncf_entries import pattern_of, scope_of
from amc.config.train import TrainConfig
from amc.graph.restrict import matches
from amc.runtime.errors import AmcError

EXAMPLES = Path(__file__).parents[3] / "examples" / "configs"

USUAL = {
    "metric": "l2", "prune_first_conv": False, "prune_downsample": False, "bn_samples": 2000,
    "schedule": "exponential", "schedule_steps": 100, "schedule_delay": 0, "finetune_epochs": 100,
}  # fmt: skip
RANKED = {"allocator": "ranking", "objective": "filters", "preserve_ratio": 0.5,
          "channel_multiple": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("1_defaults", {**USUAL, "mode": "uniform", "channel_ratio": 0.5}),
        ("2_all_weights", {**USUAL, **RANKED}),
        (
            "3_init_and_adaptation",
            {
                **USUAL, "mode": "uniform", "channel_ratio": 0.4, "schedule_steps": 20,
                "finetune_epochs": 20, "schedule_init": 0.1, "prune_first_conv": True,
                "prune_downsample": True, "bn_samples": 1024,
            },
        ),
        (
            "4_geometric_median",
            {
                **USUAL, "mode": "uniform", "channel_ratio": 0.7, "metric": "geometric_median",
                "schedule_steps": 10, "schedule_delay": 10, "finetune_epochs": 20,
            },
        ),
        ("5_flops_target", {**USUAL, "mode": "uniform", "preserve_ratio": 0.4}),
        (
            "6_learned_ranking",
            {
                **USUAL, **RANKED, "allocator": "legr", "prune_first_conv": True,
                "prune_downsample": True, "episodes": 200, "regime": "finetune",
                "reward_steps": 20, "min_ratio": 0.5, "seed": 42,
            },
        ),
    ],
)  # fmt: skip
def test_the_documented_examples(name: str, settings: dict[str, Any]) -> None:
    found = read(EXAMPLES / f"nncf_{name}.json")
    assert found.settings == settings
    quantized = ("quantization: not done here; --export int8 writes the network in 8 bits",)
    assert found.notes == (quantized if name == "5_flops_target" else ())
    TrainConfig.of(**settings)


def test_epochs_beside_a_file_are_not_those_of_its_steps() -> None:
    found = settings_in(EXAMPLES / "nncf_4_geometric_median.json", {"finetune_epochs": "3"})
    assert not {"schedule_steps", "schedule_delay"} & set(found)


@pytest.mark.parametrize(
    ("scope", "pattern"),
    [
        ("ResNet/Sequential[layer1]/BasicBlock[0]/NNCFConv2d[conv1]/conv2d_0", "layer1.0.conv1"),
        ("ResNet/ResNet[layer1]/NNCFConv2d[conv1]/conv2d_0", "layer1.conv1"),
        ("ResNet/NNCFLinear[fc]/linear_0", "fc"),
        ("ResNet/NNCFConv2d[conv1]", "conv1"),
        ("ResNet/Sequential[layer1]", "layer1.*"),
        ("layer1.0.conv1", "layer1.0.conv1"),
        (r"{re}\[layer3\]", r"{re}\[layer3\]"),
    ],
)
def test_scopes_become_patterns(scope: str, pattern: str) -> None:
    assert pattern_of(scope) == pattern
    assert pattern_of(scope_of(pattern) or "") == pattern


def test_written_scopes_match_what_their_names_match() -> None:
    place = "ResNet/Sequential[layer1]/BasicBlock[0]/NNCFConv2d[conv1]/conv2d_0"
    types = frozenset({"Conv2d", place})
    for pattern, meant in (
        ("layer1.0.conv1", True), ("layer1.*", True), ("layer1.0", False), ("conv1", False),
        ("layer2.*", False),
    ):  # fmt: skip
        scope = scope_of(pattern)
        assert scope and matches(scope, "layer1.0.conv1", types) is meant, pattern


def pruning(**fields: Any) -> str:
    return json.dumps({"compression": {"algorithm": "filter_pruning", **fields}}, indent=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (pruning(params={"pruning_taget": 0.5}), r":5: unknown field of params: 'pruning_taget'; "
         "did you mean pruning_target"),
        (pruning(parms={}), "unknown field of filter_pruning: 'parms'; did you mean params"),
        (pruning(params={"pruning_target": 1}), r"pruning_target must be in \[0, 1\), got 1"),
        (pruning(params={"pruning_target": "a"}), "pruning_target must be a number, got 'a'"),
        (pruning(params={"pruning_steps": 0}), "pruning_steps must be 1 or more"),
        (pruning(params={"schedule": "exponental"}), "did you mean exponential"),
        (pruning(params={"pruning_target": 0.5, "pruning_flops_target": 0.5}), "give pruning_t"),
        (pruning(all_weights=True, params={"all_weights": True}), "all_weights is given twice"),
        (pruning(params={"interlayer_ranking_type": "learned_ranking", "all_weights": False}),
         "learned_ranking ranks all_weights"),
        (pruning(params={"interlayer_ranking_type": "learned_ranking",
                         "legr_params": {"population_size": 9}}), "is always 64 here"),
        (pruning(params={"legr_params": {"generatons": 9}}), ":6: unknown field of legr_params"),
        (pruning(params=None), ":4: params must be an object, got None"),
        (pruning(ignored_scopes=[1]), "ignored_scopes must be text, or a list"),
        ('{"compression": {"algorithm": "rb_sparsty"}}', "unknown algorithm 'rb_sparsty'; did"),
        ('{"compression": {"algorithm": "quantization"}}', "expected one of filter_pruning, rb"),
        ('{"compression": {}}', "compression needs an algorithm"),
        ('{"compression": {"algorithm": "filter_pruning"}, "input": {}}', "did you mean input_i"),
        ('{"compression": {"algorithm": "filter_pruning"}, "input_info": 3}', "input_info must"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    (path := tmp_path / "c.json").write_text(text)
    with pytest.raises(AmcError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_what_is_not_done_here_is_said(tmp_path: Path) -> None:
    params = {"prune_batch_norms": False, "legr_params": {}, "save_ranking_coeffs_path": "x"}
    (path := tmp_path / "c.json").write_text(pruning(validate_scopes=False, params=params))
    path.write_text(path.read_text().replace("{", '{"epochs": 9,', 1))
    notes = read(path).notes
    assert "epochs: not used, it is of sparsity" in notes
    for word in ("prune_batch_norms", "legr_params", "save_ranking", "validate_scopes"):
        assert any(note.startswith(word) for note in notes), word


TARGETS = ("pruning_target", "pruning_flops_target")
LEVEL = st.floats(0, 0.99)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "schedule": st.sampled_from(["baseline", "exponential", "exponential_with_bias"]),
        "pruning_steps": st.integers(1, 200),
        "num_init_steps": st.integers(0, 20),
        "filter_importance": st.sampled_from(["L1", "L2", "geometric_median"]),
        "prune_first_conv": st.booleans(),
        "prune_downsample_convs": st.booleans(),
    },
)
LEGR = st.fixed_dictionaries(
    {},
    optional={
        "generations": st.integers(1, 500),
        "train_steps": st.integers(0, 300),
        "max_pruning": LEVEL,
        "random_seed": st.integers(0, 99),
    },
)


@given(
    params=PARAMS,
    target=st.none()
    | st.tuples(st.sampled_from(["pruning_target", "pruning_flops_target"]), LEVEL),
    ranked=st.sampled_from([None, True, False, "learned"]),
    legr=LEGR,
    first=st.none() | st.floats(0.01, 0.9),
    samples=st.none() | st.integers(0, 4000),
    scopes=st.lists(
        st.sampled_from(["conv1", "layer1.*", "{re}layer[12]", "A/B[a]/NNCFConv2d[b]/conv2d_0"])
    ),
)
def test_what_is_read_is_written_and_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    params: dict[str, Any],
    target: tuple[str, float] | None,
    ranked: bool | str | None,
    legr: dict[str, Any],
    first: float | None,
    samples: int | None,
    scopes: list[str],
) -> None:
    fields: dict[str, Any] = {"params": {**params, **dict([target] if target else [])}}
    if ranked == "learned":
        fields["params"] |= {"interlayer_ranking_type": "learned_ranking", "legr_params": legr}
    elif ranked is not None:
        fields["all_weights"] = ranked
    if first is not None:
        fields["pruning_init"] = first
    if samples is not None:
        inner = {"num_bn_adaptation_samples": samples}
        fields["initializer"] = {"batchnorm_adaptation": inner}
    if scopes:
        fields |= {"ignored_scopes": scopes, "target_scopes": scopes[0]}
    folder = tmp_path_factory.mktemp("nncf")
    (folder / "a.json").write_text(pruning(**fields))
    config = TrainConfig.of(**settings_in(folder / "a.json"))
    beside = write(f"nncf:{folder / 'b.json'}", config)
    assert beside == []
    assert TrainConfig.of(**settings_in(folder / "b.json")) == config
