"""What can be pruned, as numbers, tables and a picture; hand values, measurements, bad input."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import amc
from amc.allocators.uniform import uniform
from amc.config.command_line import parse
from amc.config.inspect import InspectConfig
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.graph.channel_graph import ChannelGraph
from amc.graph.restrictions import Restrictions
from amc.inspect import main, run
from amc.models.catalog import build
from amc.models.example import images
from amc.objectives.budget import Budget
from amc.reporting.group_chart import draw
from amc.reporting.group_chart_layout import lanes
from amc.reporting.inspection import Inspection
from amc.runtime.errors import AmcError, InfeasibleBudgetError

NETS = '''
from torch import nn

class Net(nn.Module):
    """A residual stream with a depthwise layer and a grouped reader."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.a = nn.Conv2d(8, 12, 3, padding=1)
        self.b = nn.Conv2d(12, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.deep(self.stem(x))
        x = (x + self.b(self.a(x).relu())).relu()
        return self.fc(self.wide(x).mean((2, 3)))

def net(num_classes, in_channels):
    return Net(num_classes, in_channels)

def large(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 32, stride=32), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 49, num_classes))

def whole():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 2))

def empty():
    return nn.ReLU()

def normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        x = self.conv(x)
        return x if x.sum() > 0 else -x

def branch():
    return Branch()

def named():
    """Names that are long, or mean something in XML, TeX or as ends of a picture."""
    net = nn.Sequential()
    for i, name in enumerate(("a<b>&c", "x" * 60, "$x^2$", "input", "layer")):
        net.add_module(name, nn.Conv2d(3 if i == 0 else 4, 4, 1))
    return net
'''
IMAGE = ("--input-shape", "3x8x8", "--num-classes", "4")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETS)
    return str(path)


@pytest.fixture(scope="module")
def net(nets: str) -> nn.Module:
    return build(f"{nets}:net", num_classes=4, in_channels=3).eval()


@pytest.fixture(scope="module")
def graph(net: nn.Module) -> ChannelGraph:
    return amc.trace(net, (torch.zeros(1, 3, 8, 8),))


@pytest.fixture(scope="module")
def resnet() -> ChannelGraph:
    model = build("resnet20", num_classes=10, in_channels=1)
    return amc.trace(model, (torch.zeros(1, 1, 16, 16),))


def inspect(*arguments: str) -> Inspection:
    return run(parse(InspectConfig, "amc.inspect", arguments))


def measured(model: nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 8, 8))
    return counter.get_total_flops() // 2


# Numbers.


def test_numbers_by_hand(nets: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "account.json"
    account = inspect("--model", f"{nets}:net", *IMAGE, "--json", str(path))
    found = json.loads(path.read_text())
    assert found == json.loads(json.dumps(asdict(account)))
    layers, groups = found["layers"], {g["name"]: g for g in found["groups"]}
    macs = {"stem": 13824, "deep": 4608, "a": 55296, "b": 55296, "wide": 4608, "fc": 64}
    params = {"stem": 224, "deep": 80, "a": 876, "b": 872, "wide": 304, "fc": 68}
    assert {x["name"]: x["macs"] for x in layers} == macs  # in execution order
    assert {x["name"]: x["params"] for x in layers} == params
    assert (found["macs"], found["params"], found["other_macs"]) == (133696, 2424, 0)
    assert [x["macs_share"] for x in layers] == [m / 133696 for m in macs.values()]
    assert [x["out_groups"] for x in layers] == [["stem"]] * 2 + [
        ["a"],
        ["stem"],
        ["wide"],
        ["fc"],
    ]
    wide = layers[4]
    assert (wide["kind"], wide["in_channels"], wide["out_channels"]) == ("conv2d", 8, 16)
    assert (wide["kernel"], wide["stride"], wide["groups"], wide["calls"]) == ([3, 3], 2, 4, 1)
    assert (wide["input_size"], layers[5]["input_size"]) == ([8, 8], [])
    assert list(groups) == ["input", "stem", "a", "wide", "fc"]
    stem = groups["stem"]
    assert (stem["channels"], stem["width"], stem["residual"]) == (8, 4, True)
    assert (stem["writers"], stem["readers"]) == (["stem", "b"], ["a", "wide"])
    assert (stem["through"], stem["reason"]) == (["deep"], "")
    assert groups["a"]["through"] == groups["wide"]["through"] == []
    # two decisions of four channels, a tenth of 12 and of 4 x 4, rounded up
    bounds = {name: (g["fewest"], g["most"]) for name, g in groups.items()}
    assert bounds == {
        "input": (3, 3), "stem": (4, 8), "a": (2, 12), "wide": (4, 16), "fc": (4, 4)
    }  # fmt: skip
    assert stem["removable_share"] == pytest.approx((133696 - 64) / 2 / 133696)
    assert groups["a"]["removable_share"] == pytest.approx(55296 * 2 * 10 / 12 / 133696)
    assert groups["input"]["removable_share"] == 0
    assert (found["prunable"], found["causes"]) == (3, {"network input": 1, "network output": 1})
    least = 64 * 4 * 27 + 64 * 4 * 9 + 2 * 64 * 4 * 9 + 16 * 4 * 9 + 4 * 4  # one decision each
    assert found["removable_share"] == pytest.approx(1 - least / 133696)
    assert (found["baked"], found["infeasible"], found["uniform_ratio"]) == ([], "", None)
    assert found["seconds"] > 0


def test_shares_are_those_of_the_cut_network(
    nets: str, net: nn.Module, graph: ChannelGraph
) -> None:
    account = inspect("--model", f"{nets}:net", *IMAGE, "--min-ratio", "0.3")
    facts = {g.name: g for g in account.groups}
    for group in graph.decisions:
        keep = facts[group.name].fewest // group.width
        assert keep == -(-3 * group.size // 10)
        small = amc.shrink(net, graph.plan({group.name: range(keep)}))
        share = 1 - measured(small) / measured(net)
        assert facts[group.name].removable_share == pytest.approx(share)
    smallest = amc.shrink(net, graph.plan({g.name: [0] for g in graph.decisions}))
    assert account.removable_share == pytest.approx(1 - measured(smallest) / measured(net))


@pytest.mark.parametrize(("multiple", "least"), [(1, 0.1), (1, 0.5), (8, 0.1), (4, 0.01)])
def test_smallest_ratio_is_feasible_and_less_is_not(
    multiple: int, least: float, nets: str, graph: ChannelGraph
) -> None:
    account = inspect(
        "--model", f"{nets}:net", *IMAGE, "--channel-multiple", str(multiple),
        "--min-ratio", str(least),
    )  # fmt: skip
    assert account.smallest_ratio is not None
    Budget(graph, account.smallest_ratio, multiple=multiple, min_ratio=least)
    with pytest.raises(InfeasibleBudgetError, match=f"is {account.smallest_ratio:g} "):
        Budget(graph, round(account.smallest_ratio - 1e-4, 4), multiple=multiple, min_ratio=least)
    assert all(g.fewest % multiple == 0 or g.reason for g in account.groups)


def test_uniform_strategy_of_a_target(
    nets: str, graph: ChannelGraph, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", f"{nets}:net", *IMAGE)
    account = inspect(*model, "--preserve-ratio", "0.4")
    expected = uniform(Budget(graph, 0.4))
    found = {g.name: g.uniform for g in account.groups if g.uniform is not None}
    assert found == {g.name: expected[g.name] * g.width for g in graph.decisions}
    kept = graph.cost.macs(graph.counts(expected)) / graph.macs()
    assert account.uniform_ratio == pytest.approx(kept) and kept <= 0.4
    assert f"uniform   {kept:.2%} of the MACs" in capsys.readouterr().out
    account = inspect(*model, "--preserve-ratio", "0.01")
    assert (
        account.uniform_ratio is None and "0.01 is below what is reachable" in account.infeasible
    )
    assert account.infeasible in capsys.readouterr().out
    assert f"--preserve-ratio {account.smallest_ratio} " in account.command  # one that can be run


@pytest.mark.parametrize(
    ("flags", "group", "reason", "bounds"),
    [
        (["--exclude", "b"], "stem", "excluded (b)", (8, 8)),
        (["--include", "a", "fc"], "wide", "not included (wide)", (16, 16)),
        (["--no-prune-first-conv"], "stem", "first layer (stem)", (8, 8)),
        (["--no-prune-downsample"], "wide", "has a stride (wide)", (16, 16)),
        (["--no-prune-residual"], "stem", "residual stream", (8, 8)),
        (["--min-channels", "wide", "7"], "wide", "", (8, 16)),
        (["--max-channels", "a", "9", "--min-channels", "a", "5"], "a", "", (5, 9)),
    ],
)
def test_choice(
    flags: list[str], group: str, reason: str, bounds: tuple[int, int], nets: str
) -> None:
    account = inspect("--model", f"{nets}:net", *IMAGE, *flags)
    found = next(g for g in account.groups if g.name == group)
    assert (found.reason, (found.fewest, found.most)) == (reason, bounds)
    assert account.prunable == sum(not g.reason for g in account.groups)
    assert sum(account.causes.values()) == len(account.groups) - account.prunable
    # the next command repeats the restrictions, and the training command reads them so
    words = shlex.split(account.command)
    config = parse(TrainConfig, "amc.train", words[3:])
    assert (
        config.restrictions
        == parse(InspectConfig, "amc.inspect", flags).restrictions
        != Restrictions()
    )
    assert (account.largest_ratio < 1) == (bounds[1] < found.channels)


def test_next_command_repeats_every_flag(nets: str) -> None:
    flags = ["--include", "?", "[bw]*", "--channel-multiple", "2", "--min-ratio", "0.25"]
    account = inspect("--model", f"{nets}:net", *IMAGE, *flags, "--preserve-ratio", "0.9")
    words = shlex.split(account.command)
    assert words[:3] == ["python", "-m", "amc.train"]
    assert "'?' '[bw]*'" in account.command  # a shell leaves them as they are
    config = parse(TrainConfig, "amc.train", words[3:])
    assert config.restrictions.include == ("?", "[bw]*")
    assert (config.network.model, config.data.data) == (f"{nets}:net", "DATA")
    assert (*vars(config.counts).values(), config.preserve_ratio) == (2, 0.25, 0.9)


# Where shape and classes come from.


def test_shape_and_classes() -> None:
    digits = load_data("digits")
    expected = digits.input_shape, digits.num_classes
    assert (
        images(InspectConfig.of())[:2] == images(InspectConfig.of(data="digits"))[:2] == expected
    )
    own = InspectConfig.of(model="nets.py:net")
    assert images(own)[:2] == ((3, 224, 224), 1000)
    for text in ("2x5x7", "2,5,7", "2, 5, 7"):
        assert images(replace(own, input_shape=text, num_classes=3))[:2] == ((2, 5, 7), 3)
    assert images(replace(own, input_shape="6x100"))[:2] == ((6, 100), 1000)


def test_a_function_without_flags_gets_imagenet(nets: str) -> None:
    account = inspect("--model", f"{nets}:large")
    assert account.input_shape == (3, 224, 224)
    assert account.layers[-1].out_channels == 1000
    assert account.macs == 49 * 4 * 3 * 32 * 32 + 4 * 49 * 1000


def test_the_batch_does_not_change_the_account(nets: str) -> None:
    one, two = (inspect("--model", f"{nets}:net", *IMAGE, "--batch", b) for b in "12")
    assert replace(one, seconds=0) == replace(two, seconds=0)


# What is printed.


def test_tables_and_summary(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    inspect("--model", f"{nets}:net", *IMAGE)
    out = capsys.readouterr().out
    layers, groups = out.split("Groups", 1)
    rows = {line.split()[0]: line.split() for line in layers.splitlines() if line.strip()}
    assert rows["wide"] == "wide conv2d 8 → 16 3x3 /2 8x8 4.61k 3.4 304 wide".split()
    assert rows["deep"] == "deep depthwise 8 → 8 3x3 8x8 4.61k 3.4 80 stem".split()
    rows = {
        line.split()[0]: " ".join(line.split()) for line in groups.splitlines() if line.strip()
    }
    assert rows["stem"] == "stem 2 a + 1 more 8 (2 x 4) 4 to 8 50.0% residual"
    assert rows["a"] == "a 1 b 12 2 to 12 68.9%"
    assert rows["input"] == "input stem 3 all frozen: network input"
    assert "133,696 MACs, 2,424 parameters; traced with 1 x 3x8x8 in" in rows["network"]
    assert rows["groups"].startswith("groups 3 of 5 can be pruned; left whole: network input; ")
    assert rows["Next:"].startswith("Next: python -m amc.train --preserve-ratio 0.5 --model ")


def test_a_network_in_which_nothing_can_be_pruned(
    nets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "whole.svg"
    flags = ("--input-shape", "3x8x8", "--preserve-ratio", "0.5")
    account = inspect("--model", f"{nets}:whole", *flags, "--plot", str(plot))
    out = capsys.readouterr().out
    assert (account.prunable, account.smallest_ratio, account.command) == (0, None, "")
    assert account.removable_share == 0 and account.largest_ratio == 1
    for expected in (
        "0 of 4 can be pruned", "group_norm normalises over all channels", "nothing can be pruned",
        "uniform   nothing in this network can be pruned: ",
    ):  # fmt: skip
        assert expected in out
    assert "Next" not in out
    assert "group_norm normalises over all channels" in plot.read_text()

    account = inspect("--model", f"{nets}:empty", "--plot", str(plot))
    assert (account.layers, account.groups, account.macs) == ((), (), 0)
    assert "there is no convolution or linear layer" in capsys.readouterr().out


def test_baked_layers_are_named(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    account = inspect("--model", f"{nets}:normed", "--input-shape", "3x8x8")
    assert (account.baked, account.prunable) == (("0",), 1)
    assert "baked     0: weights computed in forward" in capsys.readouterr().out


# The picture.


def elements(path: Path, kind: str) -> dict[str, ElementTree.Element]:
    """Named parts of an SVG by what comes after ``kind:``."""
    found = [e for e in ElementTree.parse(path).iter() if e.get("id", "").startswith(f"{kind}:")]
    names = [e.get("id", "").removeprefix(f"{kind}:") for e in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def texts(element: ElementTree.Element) -> list[str]:
    return ["".join(e.itertext()) for e in element.iter() if e.tag.endswith("}text")]


@pytest.mark.parametrize("which", ["resnet", "graph"])
def test_every_layer_and_group_is_in_the_picture(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    graph: ChannelGraph = request.getfixturevalue(which)
    path = tmp_path / "groups.svg"
    draw(graph, path, "a network")
    shown = texts(ElementTree.parse(path).getroot())
    for layer in graph.layers:
        assert shown.count(layer.name) == 1
    assert [texts(e) for e in elements(path, "layer").values()] == [[x.name] for x in graph.layers]
    assert list(elements(path, "bar")) == [x.name for x in graph.layers]
    assert set(elements(path, "lane")) == {g.name for g in graph.groups}
    assert set(elements(path, "write")) == {
        f"{w}:{g.name}" for g in graph.groups for w in g.writers
    }
    assert set(elements(path, "read")) == {
        f"{r}:{g.name}" for g in graph.groups for r in g.readers
    }
    deep = {f"{x.name}:{x.out_group}" for x in graph.layers if x.kind == "depthwise"}
    assert set(elements(path, "pass")) == deep
    sizes = elements(path, "size")
    for group in graph.groups:
        assert texts(sizes[group.name])[0].startswith(str(group.size * group.width))


def test_lanes_say_what_their_groups_are(resnet: ChannelGraph, tmp_path: Path) -> None:
    path = tmp_path / "groups.svg"
    draw(resnet, path)
    styles = {n: ElementTree.tostring(e).decode() for n, e in elements(path, "lane").items()}
    widths = {n: float(re.findall(r"stroke-width: ([\d.]+)", s)[0]) for n, s in styles.items()}
    for group in resnet.groups:
        assert ("stroke-dasharray" in styles[group.name]) == (not group.prunable)
        assert ("#9a9a9a" in styles[group.name]) == (not group.prunable)
        assert (widths[group.name] > 2) == group.residual
    colours = {n: re.findall(r"stroke: (#\w+)", s)[0] for n, s in styles.items()}
    prunable = [x for x in lanes(resnet) if x.group.prunable]
    for i, lane in enumerate(prunable):  # three lanes at most side by side, five colours
        beside = [x for x in prunable[:i] if x.bottom >= lane.top]
        above = [x for x in prunable[:i] if x.column == lane.column][-1:]
        others = {colours[x.group.name] for x in (*beside, *above)}
        assert colours[lane.group.name] not in others
    filled = ElementTree.tostring(elements(path, "write")["conv1:conv1"]).decode()
    hollow = ElementTree.tostring(elements(path, "read")["layer1.0.conv1:conv1"]).decode()
    assert "fill: #0072b2" in filled and "fill: #ffffff" in hollow
    notes = [t for t in texts(ElementTree.parse(path).getroot()) if "stays whole: " in t]
    assert notes == ["(a) stays whole: network input", "(b) stays whole: network output"]
    assert texts(elements(path, "size")["fc"]) == ["10 (b)"]


def test_lanes_share_columns_and_never_a_row(resnet: ChannelGraph) -> None:
    found = lanes(resnet)
    rows = {layer.name: i for i, layer in enumerate(resnet.layers)}
    for lane in found:
        first, last = rows[lane.group.writers[0]] if lane.group.writers else -1, lane.bottom
        assert lane.top == first
        assert last == max([rows[r] for r in lane.group.readers] or [len(rows)])
    in_row = [
        [x.column for x in found if x.top <= row <= x.bottom] for row in range(-1, len(rows) + 1)
    ]
    assert all(len(set(columns)) == len(columns) for columns in in_row)
    assert {x.column for x in found} == set(range(max(map(len, in_row))))
    assert found[0].group.name == "input" and found[1].group.name == "conv1"
    assert found[1].column == 0  # the longest


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_same_graph_gives_the_same_bytes(
    kind: str, net: nn.Module, graph: ChannelGraph, tmp_path: Path
) -> None:
    first, second = tmp_path / f"1.{kind}", tmp_path / f"2.{kind.upper()}"
    draw(graph, first, "net")
    draw(amc.trace(net, (torch.zeros(1, 3, 8, 8),)), second, "net")
    assert first.read_bytes() == second.read_bytes()
    assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate", first.read_bytes())


def test_odd_names_fit_and_stay_what_they_are(nets: str, tmp_path: Path) -> None:
    model = build(f"{nets}:named", num_classes=4, in_channels=3)
    graph = amc.trace(model, (torch.zeros(1, 3, 4, 4),))
    svg, png = tmp_path / "named.svg", tmp_path / "named.png"
    for path in (svg, png):
        draw(graph, path, "a title that is longer than everything below it " * 3)
    assert [texts(e) for e in elements(svg, "layer").values()] == [[x.name] for x in graph.layers]
    pixels = np.asarray(Image.open(png).convert("L"))
    edge = 30  # less than the margin by half a letter
    assert pixels[edge:-edge, edge:-edge].min() < 60
    for border in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:]):
        assert border.min() == 255


def test_another_matplotlibrc_changes_nothing(graph: ChannelGraph, tmp_path: Path) -> None:
    draw(graph, tmp_path / "1.svg")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        draw(graph, tmp_path / "2.svg")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
    assert not Gcf.get_all_fig_managers()  # pyplot knows nothing of it


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "resnet21"], "did you mean 'resnet20'"),
        (["--model", "{nets}:nothing"], "has nothing called nothing"),
        (["--model", "{nets}:branch", "--input-shape", "3x8x8"], "if x.sum() > 0 else -x"),
        (["--model", "{nets}:net", "--input-shape", "8x8"], "does not run on the example inputs"),
        (["--model", "{nets}:normed", "--input-shape", "4x8x8"], "does not run on the example in"),
        (["--input-shape", "3x0x8"], "expected sizes such as 3x224x224"),
        (["--input-shape", "wide"], "'wide': expected sizes"),
        (["--model", "{nets}:empty", "--input-shape", "900000x900000x900000"], "fit into memory"),
        (["--data", "digit"], "did you mean digits?"),
        (["--data", "digits", "--input-shape", "1x8x8"], "leave --input-shape"),
        (["--model", "{nets}:net", *IMAGE, "--exclude", "stam"], "did you mean 'stem'"),
        (["--model", "{nets}:net", *IMAGE, "--min-channels", "a", "13"], "expected 1 to 12"),
        (["--model", "{nets}:net", *IMAGE, "--max-channels", "a", "3", "--channel-multiple", "4"],
         "a: no multiple of 4"),
        (["--model", "{nets}:net", *IMAGE, "--plot", "{nets}/x.svg"], "x.svg: cannot be written"),
        (["--model", "{nets}:net", *IMAGE, "--json", "{nets}/x.json"], "cannot be written"),
        (["--plot", "groups.gif"], "groups.gif: a picture's name must end in one of .svg, .png"),
        (["--plot", "groups"], "groups: a picture's name must end"),
        (["--min-ratio", "0"], "--min-ratio must be in (0, 1], got 0"),
        (["--preserve-ratio", "1.5"], "--preserve-ratio must be in (0, 1], got 1.5"),
        (["--preserve-ratio", "nan"], "got nan"),
        (["--batch", "0"], "--batch must be 1 or more"),
        (["--channel-multiple", "0"], "--channel-multiple must be 1 or more"),
        (["--width", "0"], "--width must be in (0, 16]"),
        (["--nonsense"], "--nonsense"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line(
    arguments: list[str],
    expected: str,
    nets: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.replace("{nets}", nets) for word in arguments]
    monkeypatch.setattr(sys, "argv", ["amc.inspect", *given])
    with pytest.raises(SystemExit) as stopped:
        main()
    message = stopped.value.code  # Python prints it and exits with 1
    assert isinstance(message, str) and message.startswith("amc.inspect: ")
    assert expected in message and "\n" not in message
    assert capsys.readouterr().err == ""


def test_the_command_fails_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "amc.inspect", "--plot", "groups.bmp"],
        capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    said = [line for line in lines if not line.startswith("load ")]  # modules, from a slow disk
    assert done.returncode != 0 and not said
    assert done.stderr.startswith("amc.inspect: groups.bmp: ") and done.stderr.count("\n") == 1


def test_a_picture_of_another_kind_is_refused(graph: ChannelGraph, tmp_path: Path) -> None:
    with pytest.raises(AmcError, match=r"must end in one of \.svg, \.png, \.pdf"):
        draw(graph, tmp_path / "groups.jpg")
    assert not list(tmp_path.iterdir())


def test_the_account_on_standard_output_stands_there_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--model", "plain20", "--width", "0.25"]
    monkeypatch.setattr(sys, "argv", ["amc.inspect", *words, "--json", "-"])
    main()
    out, err = capfd.readouterr()
    assert "Layers" in err and not Path("-").exists()
    run(parse(InspectConfig, "amc.inspect", [*words, "--json", str(tmp_path / "a.json")]))
    found, written = json.loads(out), json.loads((tmp_path / "a.json").read_text())
    assert {**found, "seconds": 0} == {**written, "seconds": 0}
