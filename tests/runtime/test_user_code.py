"""Code of the user's own that exits, fails or meddles: one line, and nothing stays changed."""

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import amc
from amc.config.train import TrainConfig
from amc.models.catalog import build
from amc.runtime.errors import AmcError, UnsupportedModelError
from amc.runtime.names import check, check_model
from amc.runtime.user_code import load_function, package_code, user_code
from amc.tasks.evaluate import Score, predictions
from amc.tasks.task import load_task
from envs import Outcome
from envs.rewards import reward_function

CODE = """
import sys, threading, torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
def exits(*given): sys.exit("done\\nhere")
def leaves(*given): raise SystemExit
def fails(*given): raise KeyError("a\\nb")
def recurses(*given): return recurses()
def asserts(*given): assert False
def nothing(*given): return None
def a_class(*given): return nn.Conv2d
def text(*given): return "0.5 of it"
def no_number(*given): return float("nan")
def endless(*given): return float("inf")
def several(*given): return torch.ones(3)
def on_meta():
    with torch.device("meta"):
        return small()
def meddles():
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    return small
not_a_function = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "own.py"
    path.write_text(CODE)
    yield str(path)
    sys.modules.pop(str(path), None)


@pytest.fixture(autouse=True)
def nothing_stays_changed() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert torch.get_default_device() == torch.device("cpu")


def refusal(job: Callable[[], Any]) -> str:
    with pytest.raises(AmcError) as refused:
        job()
    line = str(refused.value)
    assert "\n" not in line and len(line) < 1000
    return line


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exits", "SystemExit: done here"),
        ("leaves", "SystemExit"),
        ("fails", "KeyError"),
        ("recurses", "RecursionError"),
        ("asserts", "AssertionError"),
        ("nothing", "expected a torch.nn.Module, got NoneType"),
        ("a_class", "expected a torch.nn.Module, got type"),
        ("several", "expected a torch.nn.Module, got Tensor"),
        ("meddles", "expected a torch.nn.Module, got function"),
        ("on_meta", "0.weight has no values (it is on the meta device)"),
        ("not_a_function", "not as a function"),
        ("absent", "nothing called absent"),
    ],
)
def test_networks(name: str, said: str, own: str) -> None:
    line = refusal(lambda: build(f"{own}:{name}", num_classes=10, in_channels=1))
    assert said in line and own in line


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exits", "SystemExit: done here"),
        ("fails", "KeyError"),
        ("nothing", "TypeError"),
        ("text", "ValueError"),
        ("several", ""),
        ("no_number", "must return a finite number, got nan"),
        ("endless", "must return a finite number, got inf"),
    ],
)
def test_rewards(name: str, said: str, own: str) -> None:
    reward = reward_function(f"{own}:{name}")
    line = refusal(lambda: reward(Outcome(Score(0.5, 1.0, 10), 100, 10)))
    assert said in line and line.startswith(f"--reward {own}:{name}: ")


@pytest.mark.parametrize("name", ["exits", "fails", "nothing", "text", "several", "meddles"])
def test_tasks(name: str, own: str) -> None:
    assert refusal(lambda: load_task(f"{own}:{name}")).startswith(f"--task {own}:{name}: ")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise SystemExit('two\\nlines')", "SystemExit: two lines"),
        ("import torch; torch.set_grad_enabled(False); 1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("f = 1\x00", ""),
    ],
)
def test_modules(code: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert said in refusal(lambda: load_function(f"{path}:f"))
    assert str(path) not in sys.modules


def test_modes_are_put_back_after_an_import(tmp_path: Path) -> None:
    path = tmp_path / "meddling.py"
    path.write_text(
        "import torch\n"
        "torch.set_grad_enabled(False)\n"
        "torch.set_default_dtype(torch.float64)\n"
        "torch.set_default_device('meta')\n"
        "def f(): return 3\n"
    )
    assert load_function(f"{path}:f")() == 3  # the fixture sees that nothing has changed


def test_what_is_inside_keeps_the_modes_around_it() -> None:
    with torch.no_grad(), user_code("here:"):
        torch.set_grad_enabled(True)
        assert torch.is_grad_enabled()
    with torch.no_grad():
        with user_code("here:"):
            torch.set_grad_enabled(True)
        assert not torch.is_grad_enabled()
    with pytest.raises(KeyboardInterrupt), user_code("here:"):
        raise KeyboardInterrupt
    with pytest.raises(AmcError, match=r"^as it is$"), user_code("here:"):
        raise AmcError("as it is")


class Held(nn.Module):
    """A network with an attribute that cannot be copied, or that copies itself and fails."""

    def __init__(self, value: Any = None, fails: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.fails = fails
        self.body[1].held = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        if self.fails:
            raise SystemExit("no\ncopies")
        copied = Held.__new__(Held)
        memo[id(self)] = copied
        nn.Module.__init__(copied)
        copied.__dict__.update(copy.deepcopy(vars(self), memo))
        return copied


@pytest.mark.parametrize("value", [(i for i in range(3)), sys.stdout.buffer, sys])
def test_networks_that_cannot_be_copied(value: Any) -> None:
    line = refusal(lambda: amc.trace(Held(value), (torch.zeros(1, 1, 8, 8),)))
    assert line.startswith("the network cannot be copied: body.1.held: TypeError: cannot pickle")
    with pytest.raises(UnsupportedModelError):
        amc.trace(Held(value), (torch.zeros(1, 1, 8, 8),))


def test_networks_that_exit_while_they_are_copied_or_run() -> None:
    assert "SystemExit: no copies" in refusal(
        lambda: amc.trace(Held(fails=True), (torch.zeros(1, 1, 8, 8),))
    )

    class Exits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.set_grad_enabled(False)
            raise SystemExit(4)

    line = refusal(lambda: predictions(Exits(), torch.zeros(2, 1, 8, 8)))
    assert line.startswith("the network fails on inputs 1x8x8: SystemExit: 4")


NAMES = st.text(max_size=40) | st.sampled_from(
    [":", "::", "a:", ":b", "..:f", "a.py:", ".py:f", "\x00:f", "a\nb:c", "~:x", "-:f", "a:b:c"]
)


@settings(max_examples=300, deadline=None)
@given(name=NAMES, field=st.sampled_from(["model", "data", "task", "reward", "finetune"]))
def test_names_of_any_kind_are_taken_or_refused_in_one_line(name: str, field: str) -> None:
    try:
        check(TrainConfig.of(**{field: name}).flat)
    except AmcError as refused:
        assert "\n" not in str(refused) and len(str(refused)) < 600


@settings(max_examples=150, deadline=None)
@given(name=NAMES)
def test_no_name_breaks_an_import(name: str) -> None:
    try:
        load_function(f"no_such_package.{name}")
    except AmcError as refused:
        assert "\n" not in str(refused)


def test_packages_load_tensors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where they ask for more; afterwards all is as before."""
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    torch.save({"x": Path("a pickle of more than tensors")}, tmp_path / "x.pt")
    with (
        pytest.raises(AmcError, match=r"^that fails: UnpicklingError.*; do this$") as caught,
        package_code("that fails", "; do this"),
    ):
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert "\n" not in str(caught.value)
    assert torch.load(tmp_path / "x.pt", weights_only=False)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amc.runtime.names.find_spec", lambda name: None)
    for spec, extra in (("timm:x", "timm"), ("torchvision:x", "vision"), ("hf:x", "hf")):
        with pytest.raises(AmcError, match=rf"is not installed: pip install .*\[{extra}\]"):
            check_model(spec)
    with pytest.raises(AmcError, match="a name is missing"):
        check_model("timm:")
