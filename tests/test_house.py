"""The rules of the house: imports point down, lint and types are clean."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent

LEVELS = {
    "amc/runtime": 1,
    "agents": 1,
    "amc/tasks": 2,
    "amc/data": 2.1,
    "amc/data/arrays": 2.0,
    "amc/data/packages": 2.05,
    "amc/graph": 2.05,
    "amc/graph/attention": 2.0,
    "amc/graph/capture": 2.1,
    "amc/graph/operators": 2.2,
    "amc/graph/tracing": 2.3,
    "amc/exporters": 2.5,
    "amc/exporters/words": 2.5,
    "amc/exporters/source": 2.6,
    "amc/calibration": 3,
    "amc/objectives": 3,
    "amc/schedules": 3,
    "amc/training": 3,
    "amc/measuring": 3.5,
    "amc/metrics": 4,
    "amc/sparsity": 4,
    "amc/allocators": 4,
    "amc/models": 4.1,
    "amc/models/packages": 4.0,
    "amc/config/sections": 4,
    "amc/config": 4.1,
    "amc/config/formats": 4.2,
    "envs": 4,
    "amc/reconstruction": 4,
    "amc/proposals": 4.5,
    "amc/runs": 5,
    "amc/reporting": 5,
    "amc/reporting/tensorboard": 5.1,
    "amc/reporting/html": 5.1,
    "amc/search": 5,
    "amc/steps": 6,
    "amc/gradual": 6.3,
    "amc/studies": 6.5,
    "amc": 7,
}
"""Folder -> level. A folder imports from itself and from lower levels; `graph` is one house of
five floors, `data` of two. Commands, on top, do not import each other."""

MOST_FILES = 12
"""In a folder; `__init__.py` is one of them."""

LONGEST_TEST = 600
"""Lines of a file of tests."""

KNOW_AGENTS = ("amc/search", "amc")
"""The only folders that import `agents`."""


def sources() -> list[Path]:
    return [p for top in ("amc", "envs", "agents") for p in sorted((ROOT / top).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


def imported(path: Path) -> set[Path]:
    """Files of ours that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    found = set()
    for name in names:
        place = ROOT / name.replace(".", "/")
        found |= {p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()}
    return {p for p in found if p.relative_to(ROOT).parts[0] in ("amc", "envs", "agents")}


def test_every_folder_has_a_level_and_says_its_idea() -> None:
    assert {folder_of(p) for p in sources()} == set(LEVELS)
    for folder in LEVELS:
        first = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
        assert first and first.splitlines()[0].endswith("."), folder
        assert len(list((ROOT / folder).glob("*.py"))) <= MOST_FILES, folder
        assert not {"utils", "common", "helpers"} & set(folder.split("/")), folder


def test_tests_mirror_the_rooms() -> None:
    found = {str(p.parent.relative_to(TESTS)) for p in TESTS.rglob("*.py")} - {"."}
    rooms = {folder.removeprefix("amc/") for folder in LEVELS} - {"amc"}
    assert found <= rooms | {"commands", "random_networks"}
    lengths = {p: len(p.read_text().splitlines()) for p in TESTS.rglob("*.py")}
    assert not [str(p) for p, lines in lengths.items() if lines > LONGEST_TEST]


def test_imports_point_down() -> None:
    wrong = []
    for path in sources():
        here = folder_of(path)
        for other in imported(path):
            there = folder_of(other)
            if there == here or (there == "amc" and other.name == "__init__.py"):
                continue
            if here == "agents" or LEVELS[there] >= LEVELS[here]:
                wrong.append(f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}")
            if there == "agents" and here not in KNOW_AGENTS:
                wrong.append(f"{path.relative_to(ROOT)} imports {there}")
    assert not wrong, "\n".join(wrong)


def test_no_imports_go_round() -> None:
    after = {p: {q for q in imported(p) if q != p} for p in sources()}
    left = set(after)
    while left:
        free = {p for p in left if not after[p] & left}
        assert free, sorted(str(p.relative_to(ROOT)) for p in left)
        left -= free


def test_importing_amc_leaves_the_agent_and_the_environment_alone() -> None:
    code = "import sys, amc; print(sorted({m.split('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("agents", "envs", "stable_baselines3", "gymnasium", "tensorboard"):
        assert f"'{name}'" not in out.stdout


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_code_is_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
