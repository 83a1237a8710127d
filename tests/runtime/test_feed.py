"""Networks that are fed with several tensors, in parts and through whole runs.

The oracle of a run: the same network with its inputs packed into one tensor, which it takes apart
itself. Every bit must be the same.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import amc
from amc.apply import main as apply
from amc.compare import run as compare
from amc.config.command_line import parse
from amc.config.compare import CompareConfig
from amc.config.inspect import InspectConfig
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.train import TrainConfig
from amc.data import load_data
from amc.inspect import run as inspect
from amc.learn import run as learn
from amc.pareto import run as pareto
from amc.runtime import feed
from amc.runtime.errors import AmcError
from amc.runtime.user_code import load_function
from amc.tasks.batches import head, tail
from amc.tasks.evaluate import evaluate
from amc.train import run
from amc.training.teacher_outputs import PrecomputedOutputs, precomputed

MINE = """
import torch
import torch.nn.functional as F
from torch import nn
from amc import Task

def chance(seed): return torch.Generator().manual_seed(seed)

def trunk(inputs):
    return nn.Sequential(nn.Conv2d(inputs, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1, stride=2), nn.ReLU())

class Siamese(nn.Module):
    "Are these two the same? One trunk sees both images."
    def __init__(self):
        super().__init__()
        self.trunk, self.head = trunk(1), nn.Linear(16, 2)
    def forward(self, left, right):
        a, b = self.trunk(left).mean((2, 3)), self.trunk(right).mean((2, 3))
        return self.head((a - b).abs())

class Stereo(nn.Module):
    "Two images of one scene, and how much they are to be trusted: a map."
    def __init__(self):
        super().__init__()
        self.left, self.right = trunk(1), trunk(1)
        self.up, self.out = nn.ConvTranspose2d(32, 8, 2, stride=2), nn.Conv2d(8, 1, 1)
    def forward(self, images, trust):
        both = torch.cat([self.left(images[0]), self.right(images[1])], 1)
        return self.out(torch.relu(self.up(both * trust[:, :, None, None])))

class Words(nn.Module):
    "An image and a few words about it."
    def __init__(self):
        super().__init__()
        self.trunk, self.words = trunk(2), nn.Embedding(9, 6)
        self.text, self.head = nn.Linear(6, 16), nn.Linear(32, 3)
    def forward(self, image, tokens):
        seen, said = self.trunk(image).mean((2, 3)), self.words(tokens).mean(1)
        return self.head(torch.cat([seen, torch.relu(self.text(said))], 1))

def two(x): return x[:, :1].contiguous(), x[:, 1:].contiguous()
def stereo_parts(x):
    return [x[:, :1].contiguous(), x[:, 1:2].contiguous()], x[:, 2, :1, 0].contiguous()
def words_parts(x):
    return {"image": x[:, :2].contiguous(), "tokens": x[:, 2, 0, :4].contiguous().long()}

class PackedSiamese(Siamese):
    def forward(self, x): return super().forward(*two(x))
class PackedStereo(Stereo):
    def forward(self, x): return super().forward(*stereo_parts(x))
class PackedWords(Words):
    def forward(self, x): return super().forward(**words_parts(x))

def made(network):
    torch.manual_seed(0)
    return network()

def siamese(): return made(Siamese)
def stereo(): return made(Stereo)
def words(): return made(Words)
def packed_siamese(): return made(PackedSiamese)
def packed_stereo(): return made(PackedStereo)
def packed_words(): return made(PackedWords)

class Batches:
    fixed = True
    def __init__(self, packed, targets, unpack, shuffle):
        self.packed, self.targets, self.unpack, self.shuffle = packed, targets, unpack, shuffle
        self.epoch = 0
    def set_epoch(self, epoch): self.epoch = epoch
    def __len__(self): return -(-len(self.targets) // 16)
    def __iter__(self):
        order = torch.arange(len(self.targets))
        if self.shuffle:
            order = torch.randperm(len(order), generator=chance(self.epoch))
        for rows in order.split(16):
            yield self.unpack(self.packed[rows]), self.targets[rows]

def streams(packed, target, unpack):
    def one(count, shuffle=False):
        x = packed(count)
        return Batches(x, target(x), unpack, shuffle)
    return one(72, True), one(40), one(30)

def pair(n):
    x = torch.randn(n, 2, 8, 8, generator=chance(n))
    x[::2, 1] = x[::2, 0]
    return x
def same(x): return (x[:, 0] == x[:, 1]).all((1, 2)).long()
def scene(n): return torch.rand(n, 3, 8, 8, generator=chance(n))
def depth(x): return x[:, :1] - x[:, 1:2] * x[:, 2:, :1, :1]
def told(n):
    x = torch.randn(n, 3, 8, 8, generator=chance(n))
    x[:, 2, 0, :4] = torch.randint(9, (n, 4), generator=chance(n + 1)).float()
    return x
def word(x): return x[:, 2, 0, 0].long() % 3

def identity(x): return x
def siamese_data(unpack=two): return streams(pair, same, unpack)
def stereo_data(unpack=stereo_parts): return streams(scene, depth, unpack)
def words_data(unpack=words_parts): return streams(told, word, unpack)
def packed_siamese_data(): return siamese_data(identity)
def packed_stereo_data(): return stereo_data(identity)
def packed_words_data(): return words_data(identity)

def rmse(results):
    pairs = [(found, wished) for found, wished in results]
    return -float(torch.cat([f - w for f, w in pairs]).square().mean().sqrt())
def task(): return Task("minus RMSE", F.mse_loss, rmse, distance=F.mse_loss)

def collated():  # as a DataLoader of nested samples collates them
    from torch.utils.data import DataLoader
    x = pair(40)
    samples = [((x[i, :1], x[i, 1:]), int(same(x)[i])) for i in range(40)]
    return tuple(DataLoader(samples, batch_size=16) for _ in range(3))

class Fixed:
    def __init__(self, *batches): self.batches = batches
    def __iter__(self): return iter(self.batches)
    def __len__(self): return len(self.batches)

labels, x = torch.tensor([0, 1]), torch.zeros(2, 1, 8, 8)
good = Fixed(((x, x), labels))
def uneven(): return Fixed(((x, x[:1]), labels)), good, good
def text(): return Fixed(({"image": x, "name": "birds"}, labels)), good, good
def numbered(): return Fixed(({0: x}, labels)), good, good
def half(): return good, Fixed(((x, x.half()), labels)), good
def nothing(): return Fixed(((), labels)), good, good
def other_size(): return good, good, Fixed(((x, x[..., :7]), labels))
def other_names(): return Fixed(({"a": x}, labels)), Fixed(({"b": x}, labels)), good
def sound(): return (Fixed((torch.zeros(2, 1, 50), labels)),) * 3
def tokens(): return (Fixed((torch.zeros(2, 7, dtype=torch.long), labels)),) * 3
"""

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2")
KINDS = ("siamese", "stereo", "words")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("feed") / "mine.py"
    path.write_text(MINE)
    return str(path)


def settings(mine: str, kind: str, **more: Any) -> dict[str, Any]:
    task = {"task": f"{mine}:task"} if "stereo" in kind else {}
    return {
        "model": f"{mine}:{kind}", "data": f"{mine}:{kind}_data", "episodes": 4,
        "warmup_episodes": 2, "finetune_epochs": 1, "learning_rate": 0.02, "device": "cpu",
        "calibration_batches": 2, "quiet": True, **task, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(mine: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run of each kind, made once."""
    place, known = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def folder(kind: str) -> Path:
        if kind not in known:
            known[kind] = run(TrainConfig.of(**settings(mine, kind, run_dir=place / kind)))
        return known[kind]

    return folder


def counts(folder: Path) -> list[Any]:
    _, *entries = map(json.loads, (folder / "episodes.jsonl").read_text().splitlines())
    return [(list(e["strategy"].values()), e["reward"], e["macs"], e["accuracy"]) for e in entries]


# Whole runs


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_that_of_the_packed_network(finished: Callable[[str], Path], kind: str) -> None:
    own, packed = finished(kind), finished(f"packed_{kind}")
    assert counts(own) == counts(packed)
    ours = load_file(own / "pruned.safetensors")
    theirs = load_file(packed / "pruned.safetensors")
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    one, other = (json.loads((f / "report.json").read_text()) for f in (own, packed))
    assert one["accuracy"] == other["accuracy"] and one["macs"] == other["macs"]
    assert 0.4 < one["macs"]["ratio"] <= 0.5
    assert all(timing["pruned"]["median"] > 0 for timing in one["latency_ms"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_comes_back(finished: Callable[[str], Path], mine: str, kind: str) -> None:
    folder, task = finished(kind), "stereo" in kind
    smaller = amc.load_pruned(load_function(f"{mine}:{kind}")(), folder).eval()
    data = load_data(f"{mine}:{kind}_data", labelled=not task)
    report = json.loads((folder / "report.json").read_text())
    found = []
    for inputs, targets in data.test:
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
        with torch.no_grad():
            found.append((smaller(*args, **kwargs), targets))
    if task:
        error = torch.cat([f - t for f, t in found]).square().mean().sqrt()
        assert report["accuracy"]["recovered"] == pytest.approx(-float(error), abs=1e-5)
    else:
        right = sum(int((f.argmax(1) == t).sum()) for f, t in found)
        assert report["accuracy"]["recovered"] == pytest.approx(right / 30, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("words", {"memory": "500KB"}),
        ("words", {"regime": "finetune", "reward_steps": 2, "workers": 2}),
        ("siamese", {"bn_samples": 50, "feature_weight": 0.5, "ema": 0.5}),
        ("stereo", {"group_size": 1, "stage_epochs": 1}),
        ("stereo", {"distill": False, "mode": "uniform", "metric": "obs"}),
    ],
)
def test_settings_on_the_way_are_those_of_the_packed_network(
    mine: str, tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    found = []
    for name in (kind, f"packed_{kind}"):
        folder = run(TrainConfig.of(**settings(mine, name, run_dir=tmp_path / name, **more)))
        found.append(load_file(folder / "pruned.safetensors"))
    ours, theirs = found
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    finished: Callable[[str], Path], mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("amc.steps.finetune.train", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(TrainConfig.of(**settings(mine, "words", run_dir=folder)))
    run(TrainConfig.of(resume=folder, quiet=True))
    for name in ("episodes.jsonl", "plan.json", "pruned.safetensors"):
        assert (folder / name).read_bytes() == (finished("words") / name).read_bytes()


def _interrupted(*given: Any, **named: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_several_processes_give_what_one_gives(
    finished: Callable[[str], Path], mine: str, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    config = settings(mine, "words", run_dir=tmp_path / "two")
    words = [f"--{key.replace('_', '-')}={value}" for key, value in config.items()]
    words = [word for word in words if not word.startswith("--quiet")]
    done = subprocess.run(
        [*LAUNCHER, "-m", "amc.train", *words],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    alone, shared = counts(finished("words")), counts(tmp_path / "two")
    assert [one[0] for one in alone] == [one[0] for one in shared]
    assert [one[1] for one in alone] == pytest.approx([one[1] for one in shared], rel=1e-4)


def test_the_other_commands_take_several_inputs(
    finished: Callable[[str], Path], mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", f"{mine}:words", "--data", f"{mine}:words_data", "--device", "cpu"]
    words += ["--calibration-batches", "2", "--quiet"]
    policy = ["--policy", str(finished("words"))]
    tuned = [*policy, "--finetune-epochs", "0"]
    place = tmp_path / "applied"
    given = [*words, *tuned, "--preserve-ratio", "0.6", "--run-dir", str(place)]
    monkeypatch.setattr(sys, "argv", ["amc.apply", *given])
    apply()
    assert 0.5 < json.loads((place / "report.json").read_text())["macs"]["ratio"] <= 0.6
    own = ["--run-dir", str(tmp_path / "swept")]
    swept = parse(ParetoConfig, "pareto", [*words, *tuned, "--preserve-ratio", "0.5,0.7", *own])
    assert (pareto(swept) / "points" / "0.5" / "pruned.safetensors").is_file()
    own = [
        "--run-dir",
        str(tmp_path / "learned"),
        "--episodes",
        "4",
        "--preserve-ratio",
        "0.5,0.7",
    ]
    assert (learn(parse(LearnConfig, "learn", [*words, *own])) / "policy.json").is_file()
    own = [
        "--run-dir",
        str(tmp_path / "compared"),
        "--methods",
        "random",
        "uniform",
        "--seeds",
        "1",
    ]
    own += ["--episodes", "3", "--preserve-ratio", "0.5"]
    assert (compare(parse(CompareConfig, "compare", [*words, *own])) / "compare.json").is_file()


def test_inspect_shows_what_can_go(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = InspectConfig.of(model=f"{mine}:words", data=f"{mine}:words_data", batch=3)
    account = inspect(config)
    assert account.input_shape == {"image": (2, 8, 8), "tokens": (4,)}
    assert account.removable_share > 0.8 and account.num_classes == 3
    assert "3 x image 2x8x8, tokens 4" in " ".join(capsys.readouterr().out.split())


def test_inspect_takes_the_data_of_a_task(mine: str) -> None:
    own = InspectConfig.of(model=f"{mine}:stereo", data=f"{mine}:stereo_data")
    with pytest.raises(AmcError, match="others need a --task"):
        inspect(own)
    account = inspect(replace(own, task=f"{mine}:task"))
    assert account.input_shape == ([(1, 8, 8), (1, 8, 8)], (1,))
    assert account.prunable and f"--task {mine}:task" in account.command


# Loaders


@pytest.mark.parametrize(
    ("function", "shape", "in_words"),
    [
        ("siamese_data", ((1, 8, 8), (1, 8, 8)), "1x8x8, 1x8x8"),
        ("words_data", {"image": (2, 8, 8), "tokens": (4,)}, "image 2x8x8, tokens 4"),
        ("packed_words_data", (3, 8, 8), "3x8x8"),
        ("collated", [(1, 8, 8), (1, 8, 8)], "1x8x8, 1x8x8"),
        ("sound", (1, 50), "1x50"),
        ("tokens", (7,), "7"),
    ],
)
def test_loaders_give_containers(mine: str, function: str, shape: Any, in_words: str) -> None:
    data = load_data(f"{mine}:{function}")
    assert data.input_shape == shape and feed.in_words(shape) == in_words
    plain = function in ("packed_words_data", "sound")
    assert (data.example is None) == plain
    assert data.in_channels == {"words_data": 2, "packed_words_data": 3, "tokens": 7}.get(
        function, 1
    )


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("uneven", ["train yields (([2, 1, 8, 8] float32, [1, 1, 8, 8] float32)"]),
        ("text", ["{image: [2, 1, 8, 8] float32, name: str}", "in a tuple or dict"]),
        ("numbered", ["{0: [2, 1, 8, 8] float32}"]),
        ("half", ["val yields", "[2, 1, 8, 8] float16"]),
        ("nothing", ["train yields ((), [2] int64"]),
        ("other_size", ["test has images 1x8x8, 1x8x7, but train 1x8x8, 1x8x8"]),
        ("other_names", ["val has images b 1x8x8, but train a 1x8x8"]),
    ],
)
def test_loaders_that_will_not_do(mine: str, function: str, parts: list[str]) -> None:
    with pytest.raises(AmcError) as error:
        load_data(f"{mine}:{function}")
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


# Parts


def nested(count: int) -> Any:
    x = torch.arange(4 * count).reshape(count, 4)
    return {"a": (x, [x + 1]), "b": x.float()}


def test_what_is_done_to_one_is_done_to_all() -> None:
    whole = nested(7)
    halves = feed.parted(whole, lambda x: x.split(4))
    assert [feed.samples(half) for half in halves] == [4, 3]
    again = feed.joined(halves)
    assert isinstance(again, dict) and list(again) == ["a", "b"]
    for one, other in zip(feed.leaves(again), feed.leaves(whole), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
    few = feed.rows(whole, slice(2))
    assert feed.forms(few) == {"a": ((4,), [(4,)]), "b": (4,)}
    assert feed.in_words(feed.forms(few)) == "a (4, 4), b 4"
    assert feed.arguments(few) == ((), few)
    x = torch.zeros(3, 1)
    assert feed.arguments([x, x]) == ((x, x), {}) and feed.arguments(x) == ((x,), {})


def test_dictionaries_may_come_in_any_order() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    one, other = {"a": x, "b": 2 * x}, {"b": 2 * x, "a": x}
    joined = feed.joined([one, other])
    assert isinstance(joined, dict)
    assert torch.equal(joined["a"], torch.cat([x, x]))
    assert torch.equal(joined["b"], torch.cat([2 * x, 2 * x]))


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.scale * (a + 10 * b)


def test_heads_and_tails_of_batches() -> None:
    x = torch.arange(10.0)[:, None]
    batches = [({"a": p, "b": p + 1}, p) for p in x.split(3)]
    first = head(batches, 7, 4)
    assert [feed.samples(inputs) for inputs, _ in first] == [4, 3]
    rest = list(tail(batches, 7))
    seen = feed.joined([inputs for inputs, _ in [*first, *rest]])
    assert isinstance(seen, dict) and torch.equal(seen["b"], x + 1)
    task = amc.Task("n", lambda f, t: (f - 11 * t - 10).abs().mean(), lambda results: 0.0)
    assert evaluate(Sum(), batches, task=task).loss == 0


@pytest.mark.parametrize("form", [dict, tuple])
def test_a_teacher_knows_samples_by_all_their_inputs(form: type) -> None:
    a, b = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[2.0], [3.0], [2.0]])

    class Stream(list[Any]):
        pass

    def given(rows: list[int]) -> Any:
        return {"a": a[rows], "b": b[rows]} if form is dict else (a[rows], b[rows])

    known = precomputed(Sum(), Stream([(given([0, 1]), None), (given([2]), None)]))
    assert isinstance(known, PrecomputedOutputs)
    assert feed.call(known, given([2, 0, 1])).flatten().tolist() == [21.0, 20.0, 30.0]
    if form is dict:
        found = known(b=b[[1]], a=a[[1]])
        assert found.flatten().tolist() == [30.0]
    with pytest.raises(AmcError, match="the first pass did not have"):
        known(b, b)
