"""The rules of the house: imports point down, lint and types are clean, the README is true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = [
    {
        "amc.blame",
        "amc.choice",
        "amc.devices",
        "amc.errors",
        "amc.files",
        "amc.imports",
        "amc.limits",
        "amc.names",
    }
    | {
        "amc.weights",
        "amc.evaluate",
        "amc.feed",
        "amc.memory",
        "amc.on_disk",
        "amc.ranks",
        "amc.task",
        "amc.torchrun",
        "amc.wording",
    },
    {"amc.data", "amc.models"},
    {"amc.plan", "amc.graph"},
    {"amc.solve"},
    {"amc.alignment", "amc.metric", "amc.budget", "amc.options", "amc.reach", "amc.allocate"}
    | {"amc.schedule"},
    {"amc.compress", "amc.recover", "amc.pretrain", "amc.sensitivity", "amc.lockstep"}
    | {"amc.aside", "amc.in_step", "amc.sequential"},
    {"envs"},
    {
        "amc.search",
        "amc.trials",
        "amc.workers",
        "amc.config",
        "amc.reuse_config",
        "amc.inspect_config",
        "amc.compare_config",
        "amc.commandline",
        "amc.typed",
        "amc.picture",
        "amc.figure",
        "amc.lanes",
        "amc.account",
        "amc.suggest",
        "amc.report",
        "amc.latency",
        "amc.standings",
        "amc.front",
        "amc.ending",
        "amc.progress",
        "amc.terminal",
    },
    {"amc.run_folder", "amc.claimed", "amc.trust", "amc.journal", "amc.reuse"},
    {"amc", "amc.pipeline", "amc.prepare", "amc.recovery", "amc.stages", "amc.sweep"},
    {"amc.inspect", "amc.train", "amc.compare", "amc.apply"} | {"amc.learn", "amc.pareto"},
]
"""Lowest first; a room imports from its own floor or from below, `agents` from nowhere."""

AGENTS_IN = ("amc.search", "amc.train", "amc.learn", "amc.reuse")
"""The only rooms that import `agents`."""


def sources() -> list[Path]:
    return [p for top in ("amc", "envs", "agents") for p in sorted((ROOT / top).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    return ".".join(module.split(".")[:2]) if module.startswith("amc.") else module.split(".")[0]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            if node.module == "amc":  # `from amc import weights` is an import of amc.weights
                found.remove("amc")
                found |= {f"amc.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("amc", "envs", "agents")}


def test_every_room_has_a_floor() -> None:
    known = set.union(*FLOORS) | {"agents"}
    assert {room(module_name(p)) for p in sources()} == known


def test_imports_point_down() -> None:
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    wrong = []
    for path in sources():
        here = room(module_name(path))
        for name in imported(path):
            there = room(name)
            if here == there:
                continue
            if here == "agents" or (there != "agents" and floor[there] > floor[here]):
                wrong.append(f"{here} imports {name}")
            if there == "agents" and here not in (
                "amc.search",
                "amc.train",
                "amc.learn",
                "amc.reuse",
            ):
                wrong.append(f"{here} imports {name}")
    assert not wrong


def test_importing_amc_leaves_the_agent_and_the_environment_alone() -> None:
    code = "import sys, amc; print(sorted({m.split('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("agents", "envs", "stable_baselines3", "gymnasium", "tensorboard"):
        assert f"'{name}'" not in out.stdout


def test_packages_are_all_listed() -> None:
    section = (ROOT / "pyproject.toml").read_text().split("packages = [")[1].split("]")[0]
    listed = re.findall(r'"([\w.]+)"', section)
    found = {module_name(p.parent / "__init__.py") for p in sources()}
    assert set(listed) == found


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


def test_readme_names_every_flag_only_as_it_is() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "amc.train", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for block in re.findall(r"python -m amc\.train([^\n`]*)", (ROOT / "README.md").read_text()):
        for flag in re.findall(r"--[a-z-]+", block):
            assert flag in help_text, flag


def test_readme_marks_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    for mark, ending in (("run", "-m amc.train --preserve-ratio 0.5"), ("test", "-m pytest")):
        block = re.search(rf"<!-- {mark} -->\n```sh\n(.*?)\n```", text, re.DOTALL)
        assert block and block.group(1).endswith(ending)
