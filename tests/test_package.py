"""What is published is complete: wheel and sdist are built and used away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("amc", "envs", "agents")
BACKEND = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"


def run(*words: str | Path, at: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=at,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "", **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources() -> set[str]:
    """All files of the packages, whatever they are."""
    found = (path for top in PACKAGES for path in (ROOT / top).rglob("*") if path.is_file())
    return {str(p.relative_to(ROOT)) for p in found if "__pycache__" not in p.parts}


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, of a copy of the checkout; the wheel; and the wheel that the sdist makes."""
    place = tmp_path_factory.mktemp("built")
    copy = place / "copy"
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy)
    made = {"sdist": place, "wheel": place, "again": place / "again"}
    for what in ("sdist", "wheel"):
        name = run(sys.executable, "-c", BACKEND.format(what), place, at=copy).splitlines()[-1]
        made[what] = place / name
    with tarfile.open(made["sdist"]) as file:
        file.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "--quiet", "--disable-pip-version-check", "-w", place / "again", unpacked, at=place,
    )  # fmt: skip
    (made["again"],) = (place / "again").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel in it."""
    target = tmp_path_factory.mktemp("installed")
    run(
        sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet",
        "--disable-pip-version-check", "--target", target, built["wheel"], at=target,
    )  # fmt: skip
    return target


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(built: dict[str, Path]) -> None:
    names = set(content(built["wheel"]))
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == sources()  # templates, weights and py.typed among them
    assert "amc/py.typed" in names and any(name.endswith(".safetensors") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in about)


def test_sdist_builds_the_same_wheel(built: dict[str, Path]) -> None:
    ours, again = content(built["wheel"]), content(built["again"])
    assert built["wheel"].name == built["again"].name
    assert ours.keys() == again.keys()
    assert [name for name in ours if ours[name] != again[name]] == []


def test_metadata_are_those_of_a_published_project(installed: Path) -> None:
    (info,) = installed.glob("*.dist-info")
    found: Distribution = PathDistribution(info)
    about = found.metadata
    assert about["Name"] == "amc-pruning" and about["License-Expression"] == "Apache-2.0"
    assert about["Description-Content-Type"] == "text/markdown" and about["Keywords"]
    classifiers = about.get_all("Classifier") or []
    assert "Typing :: Typed" in classifiers
    oldest = about["Requires-Python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in classifiers
    for extra in ("timm", "hf", "vision"):
        assert extra in (about.get_all("Provides-Extra") or [])


def test_commands_run_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    place = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    code = (
        "import amc, envs, agents; from amc.models.pretrained import shipped; amc.compress;"
        "print(amc.__file__, shipped('resnet20', 1, 'glyphs'), envs.__file__, sep='\\n')"
    )
    found = run(sys.executable, "-c", code, at=tmp_path, **place).split()
    assert all(path.startswith(str(installed)) and Path(path).is_file() for path in found)
    words = ("-m", "amc.inspect", "--model", "mobilenet_v1", "--width", "0.25")
    assert "Next: python -m amc.train" in run(sys.executable, *words, at=tmp_path, **place)


CLIENT = """\
from pathlib import Path

import amc
from torch import nn
from torch.utils.data import DataLoader
from torch import Tensor

def smaller(model: nn.Module, images: DataLoader[tuple[Tensor, Tensor]]) -> nn.Module:
    result = amc.compress(model, images, images, preserve_ratio=0.5, run_dir=Path("run"))
    kept: dict[str, int] = dict(result.strategy)
    assert kept and result.report.macs.ratio <= 0.5
    return result.model

def wrong(model: nn.Module) -> nn.Module:
    return amc.load_pruned(model, 5)
"""


@pytest.mark.slow
def test_users_types_are_checked_against_the_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    """In an environment that has the wheel, and not the checkout; a mistake is found."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                    at=tmp_path).strip())  # fmt: skip
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    run(
        sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet",
        "--disable-pip-version-check", "--target", site, built["wheel"], at=tmp_path,
    )  # fmt: skip
    (tmp_path / "client.py").write_text(CLIENT)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "client.py"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if "error" in line]
    at = 1 + CLIENT.splitlines().index("    return amc.load_pruned(model, 5)")
    assert [line for line in found if line.startswith("client.py")] == found[:1], done.stdout
    assert found[0].startswith(f"client.py:{at}: error: Argument 2"), done.stdout
