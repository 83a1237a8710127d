"""Files of weights: what is read, and that everything else is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from amc.models.checkpoint import load_checkpoint
from amc.runtime.errors import AmcError

State = dict[Any, Any]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Conv2d(1, 4, 3)  # a name that wrappers use
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.module(x)).mean((2, 3)))


def net(seed: int) -> Net:
    torch.manual_seed(seed)
    return Net()


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def without_counters(state: State) -> State:
    return {name: t for name, t in state.items() if "tracked" not in name}


@pytest.mark.parametrize(
    "form",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": state}} and {"model": state},
        lambda state: {f"module.{name}": t for name, t in state.items()},
        lambda state: {f"_orig_mod.{name}": t for name, t in state.items()},
        lambda state: {f"module._orig_mod.{name}": t for name, t in state.items()},
        lambda state: {"state_dict": {f"model.{name}": t for name, t in state.items()}},
        lambda state: {name: t.double() if t.ndim else t for name, t in state.items()},
        without_counters,
    ],
    ids=["plain", "lightning", "model", "parallel", "compiled", "both", "inside", "double", "old"],
)
def test_forms_that_are_read(form: Callable[[State], State], tmp_path: Path) -> None:
    source = net(1)
    torch.save(form(source.state_dict()), tmp_path / "net.pt")
    assert same(load_checkpoint(net(2), tmp_path / "net.pt"), source)


def test_state_of_a_wrapped_network_itself(tmp_path: Path) -> None:
    source = net(1)
    torch.save(nn.DataParallel(source).state_dict(), tmp_path / "net.pt")
    assert same(load_checkpoint(net(2), tmp_path / "net.pt"), source)
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    assert same(load_checkpoint(net(2), tmp_path / "net.safetensors"), source)


def changed(name: str, change: Callable[[Tensor], Any]) -> Callable[[State], State]:
    return lambda state: {k: change(t) if k == name else t for k, t in state.items()}


def quantised(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = torch.nan
    return tensor


W = "head.weight"
BAD: dict[str, tuple[Callable[[State], Any], str]] = {
    "integers": (lambda s: dict(enumerate(s.values())), "must be names of tensors, got 0 (int)"),
    "tuples": (lambda s: {("a", k): t for k, t in s.items()}, "(tuple)"),
    "sparse": (changed(W, Tensor.to_sparse), "head.weight is sparse"),
    "rows": (changed(W, Tensor.to_sparse_csr), "head.weight is sparse"),
    "meta": (changed(W, lambda t: t.to("meta")), "head.weight is without values"),
    "quantised": (changed(W, quantised), "head.weight is quantised"),
    "complex": (changed(W, lambda t: t + 1j), "holds complex64, expected float32"),
    "int8": (changed(W, lambda t: t.to(torch.int8)), "holds int8, expected float32"),
    "bool": (changed(W, lambda t: t > 0), "holds bool, expected float32"),
    "float count": (
        changed("norm.num_batches_tracked", lambda t: t.float()),
        "holds float32, expected int64",
    ),
    "nan": (changed(W, with_nan), "head.weight holds NaN or infinity"),
    "too large": (changed(W, lambda t: t.double() + 1e300), "holds NaN or infinity"),
    "shape": (changed(W, lambda t: t.T), "shape (4, 3), expected (3, 4)"),
    "huge": (changed(W, lambda t: t[:1, :1].expand(10**6, 10**6)), "shape (1000000, 1000000)"),
    "missing": (lambda s: {k: t for k, t in s.items() if k != W}, "'head.weight' is missing"),
    "unknown": (lambda s: {**s, "tail": torch.zeros(1)}, "'tail' is unknown"),
    "nested": (lambda s: {"trunk": s, "head": s}, "'trunk' is OrderedDict, expected a tensor"),
    "list": (lambda s: list(s.values()), "but list"),
    "tensor": (lambda s: s[W], "but Tensor"),
    "number": (lambda s: 7, "but int"),
    "text": (lambda s: {**s, W: "zeros"}, "'head.weight' is str"),
    "empty": (lambda s: {}, "is missing"),
    "none": (lambda s: {"state_dict": None}, "'state_dict' is NoneType"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD.keys())
@pytest.mark.filterwarnings("ignore")  # torch's, of the kinds of tensors that are saved here
def test_everything_else_is_one_line(
    content: Callable[[State], Any], said: str, tmp_path: Path
) -> None:
    model, before = net(1), net(1)
    path = tmp_path / "net.pt"
    torch.save(content(model.state_dict()), path)
    with pytest.raises(AmcError) as refused:
        load_checkpoint(model, path)
    line = str(refused.value)
    assert said in line and str(path) in line and "\n" not in line and len(line) < 400
    assert same(model, before)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_whole_modules_and_traps_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    for number, content in enumerate((net(1), Trap(tmp_path / "sprung"))):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        with pytest.raises(AmcError, match="holds more than tensors; save the network with"):
            load_checkpoint(net(1), path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04", b'{"a": 1}', b"\x80\x04."])
def test_files_that_are_something_else(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(content)
    with pytest.raises(AmcError, match="corrupt") as refused:
        load_checkpoint(net(1), path)
    assert "\n" not in str(refused.value)
