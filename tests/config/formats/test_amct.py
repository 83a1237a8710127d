"""AMCT's configuration of the search."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc.config.formats.files import read, settings_in, write
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError

EXAMPLES = Path(__file__).parents[3] / "examples" / "configs"


def test_the_documented_search() -> None:
    assert read(EXAMPLES / "amct_search.cfg").settings == {
        "objective": "bits", "allocator": "sensitivity", "metric": "taylor",
        "preserve_ratio": 0.666666666667, "channel_multiple": 1, "min_ratio": 0.2,
        "calibration_batches": 8, "overrides": EXAMPLES / "amct_fixed.cfg",
    }  # fmt: skip


def test_defaults_are_amcts(tmp_path: Path) -> None:
    (path := tmp_path / "c.cfg").write_text("compress_ratio: 2\nascend_optimized: true")
    found = read(path).settings
    assert (found["preserve_ratio"], found["channel_multiple"]) == (0.5, 16)
    assert 0 < found["min_ratio"] <= 1e-6 and "calibration_batches" not in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\ncompress_ratio: 1.0", r"cfg:2: compress_ratio \(original / pruned\) must be above 1"),
        ("max_prune_ratio: 0.5", r"compress_ratio \(original / pruned\) is missing"),
        ("compress_ratio: 1e400", "cfg:1: compress_ratio .* must be above 1, got inf"),
        ("compress_ratio: 2\nmax_prune_ratio: 1.5", r"cfg:2: max_prune_ratio must be in \(0, 1\]"),
        ("compress_ratio: 2\ntest_iteration: 0", "cfg:2: test_iteration must be 1 or more"),
        ("compress_ratio: 2\nascend_optimised: true", "did you mean ascend_optimized"),
        ('compress_ratio: 2\noverride_prune_cfg: "no"', "cfg:2: no: cannot be read"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    (path := tmp_path / "c.cfg").write_text(text)
    with pytest.raises(AmcError, match=words):
        read(path)


@given(
    times=st.floats(1.01, 100),
    aligned=st.none() | st.booleans(),
    most=st.none() | st.floats(0.01, 1),
    batches=st.none() | st.integers(1, 99),
    overrides=st.booleans(),
)
def test_what_is_read_is_written_and_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    times: float,
    aligned: bool | None,
    most: float | None,
    batches: int | None,
    overrides: bool,
) -> None:
    folder = tmp_path_factory.mktemp("amct")
    (folder / "o.cfg").write_text('skip_layers: "a"')
    fields = {
        "compress_ratio": times,
        "ascend_optimized": None if aligned is None else str(aligned).lower(),
        "max_prune_ratio": most,
        "test_iteration": batches,
        "override_prune_cfg": '"o.cfg"' if overrides else None,
    }
    lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
    (folder / "a.cfg").write_text("".join(lines))
    config = TrainConfig.of(**settings_in(folder / "a.cfg"))
    assert write(f"amct:{folder / 'b.cfg'}", config) == []
    assert TrainConfig.of(**settings_in(folder / "b.cfg")) == config


def test_what_amct_has_no_word_for_is_refused(tmp_path: Path) -> None:
    search = dict(objective="bits", allocator="sensitivity", metric="taylor", channel_multiple=1)
    for other, words in (
        ({"allocator": "ddpg"}, "--allocator ddpg: AMCT's search has sensitivity"),
        ({"objective": "macs"}, "--objective macs: AMCT's search has bits"),
        ({"channel_multiple": 8}, "--channel-multiple 8: AMCT has 1 and 16"),
        ({"exclude": ("a",)}, "--exclude a: cannot be said there"),
    ):
        with pytest.raises(AmcError, match=words):
            write(f"amct:{tmp_path / 'x'}", TrainConfig.of(**{**search, **other}))
    assert not list(tmp_path.iterdir())
