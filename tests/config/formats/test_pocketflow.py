"""PocketFlow's options and lists."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc.config.formats.pocketflow import read, write
from amc.config.formats.source import Source
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError


def settings(text: str) -> dict[str, object]:
    return dict(read(Source(Path("flags"), text)).settings)


def test_defaults_are_pocketflows() -> None:
    assert settings("--learner=channel") == {
        "points_per_layer": 10, "calibration_batches": 60, "channel_multiple": 1,
        "metric": "lasso", "distill": False, "preserve_ratio": 0.5, "episodes": 200,
        "warmup_episodes": 50, "reward": "accuracy",
    }  # fmt: skip


def test_options_in_every_form() -> None:
    found = settings(
        "# a comment\n"
        "--learner channel --cp_prune_option=uniform --cp_uniform_preserve_ratio 0.5\n"
        "--cp_quadruple  # four at a time\n"
        "--nocp_lasso --enbl_dst=True --loss_w_dst=8 --tempr_dst=2\n"
        "--cp_list_group=3 --cp_finetune --cp_nb_iters_ft_ratio=0.4\n"
    )
    assert found == {
        "mode": "uniform", "channel_ratio": 0.5, "channel_multiple": 4, "metric": "l1",
        "distill": True, "distill_weight": 2.0, "temperature": 2.0, "group_size": 3,
        "stage_epochs": 0.4, "stage_learning_rate": 1e-4, "points_per_layer": 10,
        "calibration_batches": 60,
    }  # fmt: skip


def test_a_list_lies_beside_its_flags(tmp_path: Path) -> None:
    (tmp_path / "ratio.list").write_text("1.0,0.5")
    (path := tmp_path / "flags").write_text("--cp_prune_option=list")
    found = read(Source.of(path)).settings
    assert found["strategy"] == tmp_path / "ratio.list"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n--cp_prune_optoin=auto", "flags:2: unknown option 'cp_prune_optoin'; did you mean "
         "cp_prune_option"),
        ("--cp_prune_option=some", "flags:1: --cp_prune_option must be auto, uniform, list"),
        ("--cp_nb_rlouts=1.5", "--cp_nb_rlouts must be a whole number, got '1.5'"),
        ("--cp_preserve_ratio=x", "must be a number"),
        ("--cp_quadruple=maybe", "must be true or false"),
        ("--enbl_dst\n--tempr_dst=0", "flags:2: --tempr_dst must be above 0, got 0"),
        ("--cp_lasso\n--nocp_lasso", "flags:2: --cp_lasso is given twice"),
        ("--learner=dis-chn-pruned", "--learner must be channel"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(text: str, words: str) -> None:
    with pytest.raises(AmcError, match=words):
        settings(text)


RATIO = st.floats(0.01, 1).map(lambda x: round(x, 4))
OPTIONS = st.fixed_dictionaries(
    {"cp_prune_option": st.sampled_from(["auto", "uniform", "list"])},
    optional={
        "cp_uniform_preserve_ratio": RATIO,
        "cp_preserve_ratio": RATIO,
        "cp_prune_list_file": st.just("some where/ratio.list"),
        "cp_nb_rlouts": st.integers(1, 999),
        "cp_nb_rlouts_min": st.integers(0, 99),
        "cp_nb_points_per_layer": st.integers(0, 20),
        "cp_nb_batches": st.integers(1, 99),
        "cp_quadruple": st.booleans(),
        "enbl_dst": st.booleans(),
        "loss_w_dst": st.floats(0.1, 9),
        "tempr_dst": st.floats(1, 9),
        "cp_finetune": st.booleans(),
        "cp_list_group": st.integers(1, 1000),
        "cp_nb_iters_ft_ratio": RATIO,
        "cp_lrn_rate_ft": st.floats(1e-5, 0.1),
        "cp_lasso": st.booleans(),
        "cp_reward_policy": st.sampled_from(["accuracy", "flops"]),
    },
)


@given(OPTIONS)
def test_what_is_read_is_written_and_read_again(options: dict[str, object]) -> None:
    text = "".join(f"--{name}='{value}'\n" for name, value in options.items())
    first = TrainConfig.of(**settings(text))
    second = TrainConfig.of(**settings(write(first)))
    weight = second.distill.distill_weight  # a product and a quotient
    assert weight == pytest.approx(first.distill.distill_weight, rel=1e-12)
    assert second.but(distill_weight=first.distill.distill_weight) == first
