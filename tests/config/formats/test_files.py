"""Kinds of files are recognised; our own JSON; what a file cannot say is refused or named."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc.config.command_line import parse
from amc.config.composed import as_json
from amc.config.formats.files import read, settings_in, write
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError
from amc.train import main, run


def of(tmp_path: Path, text: str, words: str = "") -> TrainConfig:
    """The settings of a file, and of flags beside it."""
    path = tmp_path / "file"
    path.write_text(text)
    line = ["--config", str(path), *shlex.split(words)]
    return parse(TrainConfig, "amc.train", line, settings_in).but(config=None)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('{"mode": "uniform"}', {"mode": "uniform"}),
        ("1.0, 0.5,0.25\n1", {"mode": "list"}),
        ("# one\n--cp_prune_option=list\n", {"mode": "list"}),
        ('skip_layers: "a"', {"mode": "list", "metric": "l2"}),
        ("# one\nprune_config { }", {"mode": "list", "metric": "l2"}),
    ],
)
def test_kinds_are_recognised(tmp_path: Path, text: str, settings: dict[str, str]) -> None:
    (path := tmp_path / "file").write_text(text)
    assert settings.items() <= read(path).settings.items()


def test_comments_commas_and_byte_order_marks_do_no_harm(tmp_path: Path) -> None:
    text = """\ufeff// one, "two"
    # three
    {"exclude": ["a//b", "c#d", "e /* f */", "g,]"], /* h
    "seed": 9 */ "seed": 1, // "seed": 2
    }"""
    assert of(tmp_path, text) == TrainConfig.of(
        exclude=("a//b", "c#d", "e /* f */", "g,]"), seed=1
    )
    with pytest.raises(AmcError, match="file:3: there is no setting 'sed'"):
        of(tmp_path, '// "sed"\n{\n"sed": 3, }')


@pytest.mark.parametrize("text", ["", "hello world", "\n\n", "<xml/>", "...", "e", "1,e"])
def test_others_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(AmcError, match=r"file: no configuration: expected JSON"):
        of(tmp_path, text)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe\x00")
    for path, words in ((tmp_path / "file", "as text"), (tmp_path / "no", "cannot be read")):
        with pytest.raises(AmcError, match=words):
            read(path)


def test_flags_beside_a_file_win(tmp_path: Path) -> None:
    text = '{"preserve_ratio": 0.6, "mode": "uniform", "choice": {"exclude": ["a"]}}'
    found = of(tmp_path, text, "--preserve-ratio 0.5 --seed 7 --include b c")
    assert found == TrainConfig.of(
        preserve_ratio=0.5, mode="uniform", exclude=("a",), include=("b", "c"), seed=7
    )  # 0.5, though it is the default


def test_flags_that_replace_a_target_leave_the_other_one_without_meaning(tmp_path: Path) -> None:
    text = '{"mode": "uniform", "channel_ratio": 0.5}'
    assert of(tmp_path, text).allocation.channel_ratio == 0.5
    assert of(tmp_path, text, "--preserve-ratio 0.5").allocation.channel_ratio is None
    assert of(tmp_path, text, "--mode auto") == TrainConfig()
    assert of(tmp_path, text, "--allocator legr") == TrainConfig.of(allocator="legr")
    assert of(tmp_path, text, "--allocator=uniform").allocation.channel_ratio == 0.5
    assert of(tmp_path, text, "--max-drop 1") == TrainConfig.of(mode="uniform", max_drop=1.0)
    assert of(tmp_path, '{"mode": "list", "strategy": "a"}', "--mode uniform") == (
        TrainConfig.of(mode="uniform")
    )
    both = "--objective macs=0.5,params=0.4"
    assert of(tmp_path, '{"preserve_ratio": 0.3}', both).preserve_ratio == 0.5
    assert of(tmp_path, '{"preserve_ratio": 0.3}', "--objective params").preserve_ratio == 0.3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n "presrve_ratio": 0.5}', r"file:2: there is no setting 'presrve_ratio'; did you mean "
         "preserve_ratio"),
        ('{\n"mode": 1}', "file:2: mode 1 is unknown"),
        ('{"mode": "uniform",\n "mode": "list"}', "file:2: not a JSON file"),
        ('{"seed": 1,\n "preserve_ratio": 2.0}', "file:2: --preserve-ratio must be in"),
        ('{"seed": 1,\n "episodes": }', "file:2: not a JSON file"),
        ('{"metric": "l1",\n "selector": "l2"}', "file:2: metric is given twice, by its old"),
        ('{"seed": 1,\n "resume": "x"}', "file:2: resume is no setting of a file"),
        ('{"mode": "list"}', "file:1: --mode list and --strategy FILE belong together"),
        ('{"command": "amc.apply", "plan": "x"}', "settings of amc.apply, expected amc.train"),
    ],
)  # fmt: skip
def test_mistakes_in_json_name_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(AmcError, match=words):
        of(tmp_path, text)


def test_a_run_is_repeated_without_its_folder(tmp_path: Path) -> None:
    config = TrainConfig.of(seed=3, run_dir=tmp_path / "x", mode="uniform")
    saved = {**as_json(config), "threads": 1}
    assert of(tmp_path, json.dumps(saved)) == config.but(run_dir=None)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "preserve_ratio": st.floats(0.01, 1),
            "exclude": st.lists(st.text("abc.*", min_size=1), max_size=3).map(tuple),
            "min_channels": st.dictionaries(st.text("ab", min_size=1), st.integers(1, 9)),
            "channel_multiple": st.sampled_from(["auto", 1, 4, 16]),
            "checkpoint": st.just(Path("some where/w.pt")),
            "distill": st.booleans(),
            "bn_samples": st.none() | st.integers(1, 5000),
            "seed": st.integers(0, 99),
        },
    )
)
def test_our_own_json_gives_back_every_setting(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, object]
) -> None:
    path, config = tmp_path_factory.mktemp("own") / "c.json", TrainConfig.of(**settings)
    assert write(f"amc:{path}", config) == []
    assert TrainConfig.of(**settings_in(path)) == config


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nncf", "expected one of nncf:FILE"),
        ("ncf:x", "did you mean nncf"),
        ("amc:", "expected one of"),
        ("pocketflow:x", "--reward divergence: PocketFlow has accuracy, accuracy_flops"),
    ],
)
def test_what_cannot_be_written_is_refused(target: str, words: str) -> None:
    with pytest.raises(AmcError, match=words):
        write(target, TrainConfig())


def test_what_a_file_cannot_say_is_an_error_or_given_beside(tmp_path: Path) -> None:
    known = dict(mode="uniform", channel_ratio=0.5, channel_multiple=4, finetune_epochs=2)
    target = f"pocketflow:{tmp_path / 'flags'}"
    said = write(target, TrainConfig.of(**known))
    assert said == [f"{tmp_path / 'flags'} does not hold: --finetune-epochs 2"]
    with pytest.raises(AmcError, match="--exclude a b: cannot be said there"):
        write(target, TrainConfig.of(**known, exclude=("a", "b")))


def test_the_command_line_writes_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("--cp_prune_option=uniform --cp_noise_tolerance=0.1")
    line = "amc.train --config a --seed 2 --write-config amc:b.json"
    monkeypatch.setattr("sys.argv", line.split())
    main()
    assert "cp_noise_tolerance: not used here" in capsys.readouterr().out
    assert json.loads(Path("b.json").read_text()) == {
        "channel_multiple": 1, "mode": "uniform", "channel_ratio": 0.6, "distill": False,
        "seed": 2,
    }  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b.json"]


def test_from_python_the_settings_are_read_first(tmp_path: Path) -> None:
    with pytest.raises(AmcError, match=r"amc\.config\.formats\.files\.read"):
        run(TrainConfig.of(config=tmp_path / "x"))
