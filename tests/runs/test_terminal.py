"""What people see: harmless names, any encoding, any output, progress, one line a mistake."""

import contextlib
import io
import os
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich import box
from rich.table import Table
from torch import Tensor, nn

from amc.config.command_line import known_flags, parse
from amc.config.compare import CompareConfig
from amc.config.exits import CLOSED, exit_with_one_line
from amc.config.inspect import InspectConfig
from amc.config.train import TrainConfig
from amc.graph.tracing.trace import trace
from amc.inspect import run as inspect
from amc.reporting.comparison import Attempt, draw_comparison
from amc.reporting.group_chart import draw
from amc.reporting.pareto_front import Point, draw_front
from amc.runs.progress import EVERY, SOON, Bars, Lines
from amc.runs.run import kept
from amc.runs.terminal import Terminal
from amc.runtime.errors import AmcError, OutputLost
from amc.runtime.user_code import load_function, one_line, user_code, users_line
from amc.runtime.wording import duration, encodable, one_line_of, plain, suggestion

HOSTILE = [
    "[red]layer[/red]", "[/]", "[link=http://x]y[/link]", ":smile:", "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07", "two\nlines", "a\rb", "tab\t", "\u202eevil", "\u2066x\u2069",
    "zero\u200bwidth", "\x9b31m", "\udcff", "$x^2$", "{0}", "%s", "\U0001f642", "层",
    "a\u2028b", "\x00",
]  # fmt: skip
NAMES = st.text(max_size=12) | st.sampled_from(HOSTILE)


class Stream(io.TextIOWrapper):
    """Standard output of an encoding, whose bytes are kept."""

    def __init__(self, encoding: str = "utf-8", errors: str = "strict") -> None:
        self.kept = io.BytesIO()
        super().__init__(self.kept, encoding=encoding, errors=errors, write_through=True)

    def said(self) -> str:
        return self.kept.getvalue().decode(self.encoding)


class Gone(io.StringIO):
    """An output whose reader has gone away after so many characters."""

    def __init__(self, error: OSError, after: int = 0) -> None:
        super().__init__()
        self._error, self._after = error, after

    def write(self, text: str) -> int:
        self._after -= len(text)
        if self._after < 0:
            raise self._error
        return super().write(text)


def terminal(monkeypatch: pytest.MonkeyPatch, stream: object) -> Terminal:
    monkeypatch.setattr(sys, "stdout", stream)
    return Terminal(quiet=False)


def table_of(*names: str) -> Table:
    table = Table(title=names[0], box=box.SIMPLE)
    table.add_column(names[-1], overflow="fold")
    for name in names:
        table.add_row(name)
    return table


# Names.


@given(NAMES)
def test_plain_text_is_one_line_of_what_can_be_seen(text: str) -> None:
    found = plain(text)
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in found)
    assert len(found.splitlines()) <= 1
    found.encode()
    if text.isprintable():
        assert found == text
    assert plain(found) == found


@settings(max_examples=40, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_whatever_is_shown_is_shown_as_it_is(names: list[str], encoding: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stream = Stream(encoding)
        shown = terminal(patch, stream)
        shown.say(*names)
        lines = stream.said().split("\n")[:-1]
        assert lines == [encodable(plain(name), encoding) for name in names]
        shown.table(table_of(*names))
        with shown.bar(names[0], 1) as bar:
            bar.step(names[-1])
        assert not set(stream.said()) & set("\x1b\r\x07\x9b\u202e\u2028\u200b")


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_show_names_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    terminal(monkeypatch, stream).table(table_of("title", name, "header"))
    assert plain(name).strip() in stream.said()


def test_signs_of_ours_are_spelled_where_they_cannot_be_written() -> None:
    assert encodable("16 → 8 ± 0.1", "ascii") == "16 -> 8 +- 0.1"
    assert encodable("16 → 8", "utf-8") == "16 → 8"
    assert encodable("é ±", "latin-1") == "é ±"
    assert encodable("层", "ascii") == r"\u5c42"


@given(st.text(max_size=80) | st.integers().map(lambda n: str(10**2000 + n)))
def test_a_message_is_one_line_and_no_word_of_it_is_endless(text: str) -> None:
    found = one_line_of(text)
    assert len(found.splitlines()) <= 1
    assert all(len(word) < 1200 for word in found.split(" "))


# Outputs.


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space")])
def test_an_output_that_is_lost_is_no_error_of_the_users_code(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = terminal(monkeypatch, Gone(error, 3))
    with pytest.raises(OutputLost) as lost:
        shown.say("a line")
    assert lost.value.closed == (error.errno == 32)
    assert not isinstance(lost.value, Exception)


@pytest.mark.parametrize("going_on", ["", "; go on: again"])
def test_a_closed_output_ends_a_command_as_other_tools(
    going_on: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = terminal(monkeypatch, Gone(BrokenPipeError(32, "Broken pipe")))
    with pytest.raises(SystemExit) as ended, exit_with_one_line("x", resume=lambda: going_on):
        shown.say("a line")
    assert ended.value.code == CLOSED == 128 + 13
    assert capsys.readouterr().err == (
        "x: standard output is closed; go on: again\n" * bool(going_on)
    )


def test_a_full_disk_under_the_output_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = terminal(monkeypatch, Gone(OSError(28, "No space left on device")))
    with pytest.raises(SystemExit) as ended, exit_with_one_line("x"):
        shown.say("a line")
    assert ended.value.code == "x: standard output cannot be written: No space left on device"


def test_without_any_output_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, None)
    shown.say("a line")
    shown.table(table_of("title", "a", "b"))
    with shown.bar("step", 1) as bar:
        bar.step()


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    ("line", "status", "wanted", "err"),
    [
        ("-m amc.train --help | true", CLOSED, "", ""),
        ("-m amc.inspect --model plain20 | true", CLOSED, "", ""),
        ("-m amc.inspect --model plain20 >&-", 0, "", ""),
        ("-m amc.inspect --model plain20 2>&-", 0, r"(?s).*Layers.*\| *conv1 *\|.* -> .*", ""),
    ],
)  # fmt: skip
def test_shells(line: str, status: int, wanted: str, err: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {line}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, err)
    assert re.fullmatch(wanted, done.stdout), done.stdout


def test_on_a_terminal_sentences_go_on_under_their_beginning_and_commands_stay_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Stream()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    shown, words = terminal(monkeypatch, stream), "of many words " * 8
    shown.say(f"slow     a reason {words}", "", f"  once more  python -m amc.train {words}")
    first, *rest, empty, command = stream.said().rstrip("\n").split("\n")
    assert max(map(len, (first, *rest))) <= 60
    assert len(rest) > 1 and all(line.startswith(" " * 9) for line in rest)
    assert " ".join((first, *map(str.strip, rest))).split() == f"slow a reason {words}".split()
    assert empty == "" and command == f"  once more  python -m amc.train {words}"


# Progress.


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told() -> Iterator[tuple[Lines, Clock, list[str]]]:
    """Lines, whose thread waits for a clock that stands still."""
    clock, said = Clock(), list[str]()
    yield Lines(said.append, clock), clock, said


Told = tuple[Lines, Clock, list[str]]


def test_what_is_quick_has_one_line(told: Told) -> None:
    lines, clock, said = told
    with lines.bar("cut", 3) as bar:
        for _ in range(3):
            bar.step("fine")
        clock.now += 0.5
    assert said == ["cut         3/3 in 0.5 s  fine"]


def test_what_has_no_total_and_is_quick_has_none(told: Told) -> None:
    lines, _, said = told
    with lines.bar("read data"):
        pass
    assert said == []


def test_what_is_long_is_told_with_the_time_that_is_left(told: Told) -> None:
    lines, clock, said = told
    with lines.bar("search", 100) as bar:
        for _ in range(100):
            clock.now += 1
            bar.step("reward 1")
    assert said[0] == "search      1/100, 1 min 39 s left  reward 1"
    assert said[1] == "search      9/100, 1 min 31 s left  reward 1"
    assert said[-1] == "search      100/100 in 1 min 40 s  reward 1"
    assert len(said) == 14


def test_no_more_than_ten_seconds_pass_without_a_line() -> None:
    assert 0 < SOON < EVERY < 10


def test_recorded_work_that_goes_by_at_once_does_not_spoil_the_forecast(told: Told) -> None:
    lines, clock, said = told
    with lines.bar("search", 200) as bar:
        for _ in range(100):
            bar.step()
        for _ in range(100):
            clock.now += 2
            bar.step()
    assert said[6] == "search      125/200, 2 min 30 s left"


def test_a_unit_that_takes_minutes_is_no_silence(told: Told) -> None:
    lines, clock, said = told
    with lines.bar("cut", 3):
        for _ in range(4):
            clock.now += 10
            lines.beat()
    assert said[:2] == ["cut         0/3, 10 s so far", "cut         0/3, 20 s so far"]


def test_steps_within_steps_are_told_in_one_line(told: Told) -> None:
    lines, clock, said = told
    with lines.bar("sweep", 9) as outer:
        with lines.bar("fine-tune epoch 1 of 2", 40) as inner:
            clock.now += 8
            inner.step("loss 1", name="fine-tune epoch 2 of 2")
        outer.step()
    assert said == [
        "sweep       0/9, 8.0 s so far | fine-tune epoch 2 of 2  1/40, 5 min 12 s left  loss 1",
        "sweep       1/9 in 8.0 s",
    ]


def test_the_thread_speaks_by_itself_and_ends_with_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("amc.runs.progress.SOON", 0.02)
    monkeypatch.setattr("amc.runs.progress.EVERY", 0.02)
    spoken, said = threading.Event(), list[str]()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            spoken.set()

    lines, before = Lines(say), threading.active_count()
    with lines.bar("cut", 3):
        assert spoken.wait(20)
    assert threading.active_count() == before


def test_what_the_thread_meets_is_raised_where_the_work_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("amc.runs.progress.SOON", 0.01)
    met = threading.Event()

    def say(line: str) -> None:
        met.set()
        raise OutputLost(BrokenPipeError())

    with pytest.raises(OutputLost), Lines(say).bar("cut", 3):
        assert met.wait(20)


def test_a_step_that_fails_is_not_told_as_done(told: Told) -> None:
    lines, _, said = told
    with pytest.raises(KeyError), lines.bar("cut", 3):
        raise KeyError
    assert said == []
    with lines.bar("again", 1) as bar:
        bar.step()
    assert len(said) == 1


def test_bars_on_a_terminal_fit_eighty_columns() -> None:
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, markup=False)
    bars = Bars(console)
    with bars.bar("fine-tune epoch 1 of 4", 1600) as bar:
        with bars.bar("[b]inner[/b]", 3) as inner:
            inner.step()
        for _ in range(1600):
            bar.step("loss 0.1234  val 99.17%", name="fine-tune epoch 4 of 4")
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).rstrip().splitlines()[-1]
    assert "fine-tune epoch 4 of 4" in last and "1600/1600" in last and "99.17%" in last
    assert len(last.rstrip()) <= 80 and "inner" not in last


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min"), (125, "2 min 5 s"),
     (3600, "1 h"), (5000, "1 h 23 min")],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# Mistakes.


def refused(config: type, *arguments: str) -> str:
    with pytest.raises(AmcError) as error:
        parse(config, "amc.x", list(arguments))
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "arguments", "expected"),
    [
        (
            TrainConfig,
            ["--preserve-ration", "0.5"],
            "there is no --preserve-ration; did you mean --preserve-ratio?",
        ),
        (TrainConfig, ["--preserve_ration=0.5"], "; did you mean --preserve-ratio?"),
        (TrainConfig, ["--no-distil"], "there is no --no-distil; did you mean --no-distill?"),
        (TrainConfig, ["--exlude", "fc"], "there is no --exlude; did you mean --exclude?"),
        (TrainConfig, ["--zzzz"], "there is no --zzzz (--help"),
        (TrainConfig, ["--agent", "dppg"], "--allocator 'dppg' is unknown; allowed: ddpg, td3,"),
        (TrainConfig, ["--agent", "dppg"], "; did you mean 'ddpg'?"),
        (TrainConfig, ["--selector", "qqq"], "--metric 'qqq' is unknown; allowed: lasso, "),
        (InspectConfig, ["--imput-shape", "3x8x8"], "did you mean --input-shape?"),
        (CompareConfig, ["--episode", "3"], "there is no --episode; did you mean --episodes?"),
    ],
)  # fmt: skip
def test_the_nearest_is_suggested(config: type, arguments: list[str], expected: str) -> None:
    said = refused(config, *arguments)
    assert expected in said and len(said.splitlines()) == 1


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(known_flags(TrainConfig))), st.data())
def test_a_slip_of_one_letter_is_understood(flag: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(4, max(4, len(flag) - 1)))
    slip = flag[:at] + flag[at + 1 :]
    if slip not in set(known_flags(TrainConfig)) and slip not in ("--hel",):
        assert "; did you mean --" in refused(TrainConfig, slip, "1")


def test_nothing_near_is_not_suggested() -> None:
    assert suggestion("qqqq", ["ddpg"]) == ""


BROKEN = """
import torch


def build():
    return helper()


def helper():
    raise RuntimeError("two" + chr(10) + "lines")  # line 10


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x.flatten(1))  # line 19
"""


def test_errors_of_the_users_code_name_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(BROKEN)
    try:
        load_function("nets.py:build")()
    except RuntimeError as error:
        assert one_line(error) == "RuntimeError: two lines (nets.py:10)"
    try:
        load_function("nets.py:Net")()(torch.zeros(1, 3, 8, 8))
    except RuntimeError as error:
        assert users_line(error) == "nets.py:19"
    (tmp_path / "broken.py").write_text("x = 1\nx y\n")
    with pytest.raises(AmcError, match=r"broken.py, line 2"):
        load_function("broken.py:build")


def test_errors_of_the_users_code_end_a_command_wherever_they_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(BROKEN)
    function: Callable[[], object] = load_function("nets.py:build")
    with pytest.raises(SystemExit) as ended, exit_with_one_line("x"):
        function()
    assert ended.value.code == "x: RuntimeError: two lines (nets.py:10)"


def test_a_fault_of_ours_is_told_in_full() -> None:
    fault, command = (
        KeyError("ours"),
        exit_with_one_line("x"),
    )  # its traceback has no line of a user's
    command.__enter__()
    assert not command.__exit__(KeyError, fault, None)


# Pictures and TensorBoard.


class Odd(nn.Module):
    """Layers whose names mean something to markup, terminals, TeX and XML."""

    def __init__(self) -> None:
        super().__init__()
        for number, name in enumerate(ODD):
            self.add_module(name, nn.Conv2d(4 if number else 3, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._modules.values():
            assert layer is not None
            x = layer(x).relu()
        return x.mean((2, 3))


ODD = [name for name in HOSTILE if "." not in name and "\udcff" not in name]


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_pictures_of_any_names(ending: str, tmp_path: Path) -> None:
    graph = trace(Odd().eval(), (torch.zeros(1, 3, 64, 64),))
    path = tmp_path / f"a.{ending}"
    draw(graph, path, "\x1b[31m $title$ \udcff")
    if ending == "svg":
        shown = "".join(ElementTree.parse(path).getroot().itertext())
        for name in ODD:
            assert plain(name).strip() in shown


def test_charts_of_any_names(tmp_path: Path) -> None:
    attempts = [Attempt("ddpg", 0, (0.1, 0.2), {"a": 1}, 1, 0.5, 0.1)]
    draw_comparison({"ddpg": attempts}, tmp_path / "a.svg", "$\x1b\udcff & <b> $$")
    point = Point(1.0, 2, 2, 1.0, 0.5, 0.5)
    draw_front([point], point, tmp_path / "b.svg", "$\x1b\udcff & <b> $$")
    for name in ("a.svg", "b.svg"):
        shown = "".join(ElementTree.parse(tmp_path / name).getroot().itertext())
        assert plain("$\x1b\udcff & <b> $$") in shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_inspect_shows_any_names(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setitem(sys.modules, "odd", sys.modules[__name__])
    inspect(InspectConfig.of(model="odd:Odd", input_shape="3x64x64", plot=tmp_path / "a.png"))
    shown = "".join(stream.said().split())
    for name in ODD:
        assert "".join(encodable(plain(name), encoding).split()) in shown
    assert not re.search("[\x1b\r\x07\x9b\u202e\u2028\u200b\x00]", shown)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("broken", [KeyError("x"), AmcError("of the settings")])
def test_code_that_breaks_late_loses_nothing_and_the_line_says_how_to_go_on(
    begun: bool, broken: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not where the run has not begun, nor after a mistake that going on would only repeat."""
    with (
        pytest.raises(SystemExit) as ended,
        exit_with_one_line("x", resume=lambda: "; go on: again"),
    ):
        with kept() if begun else contextlib.nullcontext(), user_code("data.py: train:"):
            raise broken
    said = str(ended.value.code)
    assert said.startswith("x: ") and "\n" not in said
    assert said.endswith("; go on: again") == (begun and isinstance(broken, KeyError))
    assert capsys.readouterr().err == ""
