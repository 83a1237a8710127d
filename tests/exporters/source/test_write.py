"""`pruned.py`: what it makes is the network, and it needs nothing of ours."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import amc
import drawn_networks
import published_blocks
from amc.exporters.source.write import PROGRAM, SOURCE, made, write_source
from amc.exporters.words.unwritable import Unwritable
from amc.graph.capture.export import Inputs
from amc.models.catalog import build as bundled
from amc.runtime.errors import AmcError
from drawn_networks import BUNDLED_SETTINGS, Case, Net, conv, images, random_keep, shaken
from random_networks import build, random_spec


def written(model: nn.Module, *inputs: Any, **named: Any) -> str:
    """The text of the file; it is proven, and proven again here, bit by bit."""
    before = {name: x.clone() for name, x in model.state_dict().items()}
    text, apart = made(model.eval(), Inputs(inputs, named))
    assert apart == 0
    assert all(x.equal(before[name]) for name, x in model.state_dict().items())
    namespace: dict[str, Any] = {"__name__": "pruned"}
    exec(compile(text, "pruned.py", "exec"), namespace)
    alone = namespace[namespace["load"].__annotations__["return"].__name__]().eval()
    assert alone.state_dict().keys() == before.keys()
    alone.load_state_dict(before)
    assert "amc" not in text.replace("pruned.safetensors", "")
    return text


def reason(model: nn.Module, *inputs: Any) -> str:
    with pytest.raises(Unwritable) as caught:
        made(model.eval(), Inputs(inputs))
    return str(caught.value)


@cache
def cut(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    width, size = BUNDLED_SETTINGS[name]
    model = shaken(bundled(name, num_classes=10, in_channels=3, width=width))
    x = torch.randn(2, 3, size, size)
    graph = amc.trace(model, (x,))
    return amc.shrink(model, random_keep(graph, seed)), x


def test_a_residual_network_reads_as_a_person_would_write_it() -> None:
    model, x = cut("resnet20")
    text = written(model, x)
    assert "x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))" in text
    assert "return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))" in text
    assert "return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)" in text
    assert text.count("class ") == 3  # two kinds of blocks and the network
    assert "batches of 1, 2, 3, with inputs 3x16x16 and 3x24x24" in text.replace("\n", " ")
    assert "torch.ops" not in text and "raise" not in text


@pytest.mark.usefixtures("as_written")
def test_it_runs_where_nothing_of_ours_can_be_imported(tmp_path: Path) -> None:
    model, x = cut("resnet20")
    assert write_source(tmp_path, model, Inputs((x,))) == []
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    save_file({"x": x, "y": model(x).detach()}, tmp_path / "xy.safetensors")
    code = (
        "import sys; sys.modules['amc'] = None\n"
        "import pruned; from safetensors.torch import load_file\n"
        "both = load_file('xy.safetensors')\n"
        "print(pruned.load('w.safetensors')(both['x']).equal(both['y']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert done.stdout == "True\n"


SOME = (
    "residual_identity", "picked_in_space", "unflattened", "instance_normalisation",
    "group_normalisation_of_single_channels",
)  # fmt: skip


@pytest.mark.parametrize("name", SOME)
def test_drawn_networks(name: str) -> None:
    case: Case = getattr(drawn_networks, name)()
    written(case.model, *case.inputs)


def test_sizes_are_read_off_tensors_and_widths_are_numbers() -> None:
    text = written(published_blocks.ShuffleUnit(16), images(16))
    assert "y.view(y.shape[0], 2, 8, y.shape[2], y.shape[3])" in text
    assert "raise" not in text  # any image size


def test_what_an_image_size_decides_is_refused_at_another() -> None:
    model = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(4 * 36, 2))
    text = written(model, images())
    assert "if input.shape[2:] != (6, 6):" in text
    assert "batches of 1, 2, 3, with inputs 3x6x6" in text.replace("\n", " ")


def test_branches_on_sizes_are_refused_elsewhere() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return -m.a(x) if x.shape[2] % 4 == 0 else m.a(x)

    text = written(Net(run, a=conv(3, 4)), images(size=6))
    assert "shape[2:] != (6, 6)" in text


def test_the_least_size_is_checked() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.a(x) * 2 if x.shape[2] > 8 else m.a(x)

    text = written(Net(run, a=nn.Conv2d(3, 4, 5)), images(size=10))
    assert "shape[2] < 9" in text and "shape[3] < 5" in text and "!=" not in text
    assert "3x10x10 and 3x15x15" in text.replace("\n", " ")


def test_outputs_that_cannot_be_written_are_left_out_where_the_task_does_not_take_them() -> None:
    def run(m: Any, x: Tensor) -> Any:
        return m.a(x), {"of": object()}

    net = Net(run, a=conv(3, 4)).eval()
    with pytest.raises(AmcError):
        made(net, Inputs((images(),)))
    text, apart = made(net, Inputs((images(),), outputs=lambda found: found[0]))
    assert apart == 0 and "return self.a(inputs[0])" in text


def test_padding_that_depends_on_the_size_stays_so() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        odd = x.shape[3] % 2
        return m.a(F.pad(x, (0, odd, 0, odd)))

    text = written(Net(run, a=conv(3, 4)), images(size=6))
    found: dict[str, Any] = {"__name__": "pruned"}
    exec(text, found)
    alone, x = found["Net"]().eval(), images(size=7)
    try:
        assert alone(x).shape[2:] == (8, 8)
    except ValueError:
        assert "shape[2:] != (6, 6)" in text


def test_shared_modules_and_parameters_stay_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(4, 4)
            self.b = nn.ModuleList([self.a, conv(4, 4), nn.Sequential(self.a, nn.ReLU())])
            self.last = conv(4, 4)
            self.last.weight = self.b[1].weight

        def forward(self, x: Tensor) -> Tensor:
            for b in self.b:
                x = b(x)
            return self.a(self.last(x))

    text = written(Tied(), images(4))
    found: dict[str, Any] = {"__name__": "pruned"}
    exec(text, found)
    net = found["Tied"]()
    assert net.b[0] is net.a and net.b[2][0] is net.a and net.last.weight is net.b[1].weight


def test_buffers_constants_and_writes_in_place() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)[:, m.order] * torch.tensor([0.5, 2.0, float("inf"), 1.0])[:, None, None]
        x[:, :2] += m.shift
        return x + torch.arange(x.shape[1], device=x.device)[:, None, None]

    net = Net(run, a=conv(3, 4), order=torch.tensor([3, 1, 0, 2]))
    net.register_buffer("shift", torch.tensor(0.25), persistent=False)
    text = written(net, images())
    assert "self.register_buffer('shift', torch.tensor(0.25, dtype=torch.float32)" in text
    assert 'float("inf")' in text and "device=x.device" in text


def test_names_that_are_no_names() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module('x"] = 1; import os #', conv(3, 4))
            self.add_module("lambda", nn.ModuleDict({"0 '\\": conv(4, 4), "__b": conv(4, 4)}))
            self.register_parameter("naïve\n", nn.Parameter(torch.ones(1)))
            self.register_buffer("__c", torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            for m in (getattr(self, 'x"] = 1; import os #'), *getattr(self, "lambda").values()):
                x = m(x)
            return x * getattr(self, "naïve\n") * getattr(self, "__c")

    Net.__name__ = 'Net:\n    """'
    text = written(Net(), images())
    assert "class Net(nn.Module):" in text


def test_other_types_of_numbers_and_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4, dtype=torch.float64), nn.Embedding(5, 4)
            self.lstm = nn.LSTM(4, 3, batch_first=True)

        def forward(self, image: Tensor, *, tokens: Tensor, extra: dict[str, Tensor]) -> Any:
            found, _ = self.lstm(self.b(tokens))
            return {"a": self.a(image), "b": [found, extra["x y"] + 1, None]}

    tokens = torch.randint(0, 5, (2, 6))
    text = written(Two(), images().double(), tokens=tokens, extra={"x y": torch.ones(2)})
    assert "def forward(self, image: Tensor, tokens: Tensor, extra)" in text
    assert "self.lstm(self.b(tokens))[0]" in text and "dtype=torch.float64" in text


def big(m: Any, x: Tensor) -> Tensor:
    return m.a(x) + m.noise


@pytest.mark.usefixtures("as_written")
def test_where_it_is_impossible_the_program_is_kept(tmp_path: Path) -> None:
    net = Net(big, a=conv(3, 4))
    net.register_buffer("noise", torch.randn(4, 36, 36), persistent=False)
    assert "5,184 numbers" in reason(net, images(size=36))
    (tmp_path / SOURCE).write_text("of another network")
    said = write_source(tmp_path, net, Inputs((images(size=36),)))
    assert len(said) == 1 and "5,184 numbers" in said[0]
    assert not (tmp_path / SOURCE).exists()
    program = torch.export.load(tmp_path / PROGRAM).module()
    x = images(size=36, batch=5)
    assert program(x).allclose(net(x))


@pytest.mark.usefixtures("as_written")
def test_what_cannot_even_be_exported_fails_nothing(tmp_path: Path) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.a(x) if x.sum() > 0 else -m.a(x)

    said = write_source(tmp_path, Net(run, a=conv(3, 4)), Inputs((images(),)))
    assert len(said) == 1 and "no pruned.pt2 either" in said[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [19, 39])
def test_random_networks(seed: int) -> None:
    model, inputs = build(random_spec(seed))
    written(model, *inputs)


def cases() -> dict[str, Callable[[], Case]]:
    return {
        name: one
        for name, one in vars(drawn_networks).items()
        if getattr(one, "__annotations__", {}).get("return") is Case
        and not one.__code__.co_argcount
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(cases()))
def test_all_drawn_networks(name: str) -> None:
    case = cases()[name]()
    written(case.model, *case.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED_SETTINGS)
def test_all_bundled_networks(name: str) -> None:
    text = written(*cut(name))
    assert "torch.ops" not in text


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_many_random_networks(seed: int) -> None:
    model, inputs = build(random_spec(seed))
    written(model, *inputs)


@pytest.mark.usefixtures("as_written")
def test_every_run_leaves_it(tmp_path: Path) -> None:
    net = nn.Sequential(
        conv(1, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    x = torch.randn(32, 1, 6, 6)
    loader = [(x, (x.mean((1, 2, 3)) > 0).long())]
    few: dict[str, Any] = {"mode": "uniform", "finetune_epochs": 0, "run_dir": tmp_path / "run"}
    result = amc.compress(net, loader, loader, **few)
    spec = importlib.util.spec_from_file_location("pruned", tmp_path / "run" / "pruned.py")
    assert spec is not None and spec.loader is not None
    pruned = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pruned)
    assert pruned.load(tmp_path / "run" / "pruned.safetensors")(x).equal(result.model(x))
