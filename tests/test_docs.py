"""README and docs are true: commands parse, flags are all there, links lead somewhere."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import amc
from amc.allocators.checked import answer
from amc.allocators.problem import AllocationProblem
from amc.allocators.uniform import uniform
from amc.config.apply import ApplyConfig
from amc.config.command_line import known_flags, parse
from amc.config.compare import CompareConfig
from amc.config.inspect import InspectConfig
from amc.config.latency import LatencyConfig
from amc.config.many_budgets import LearnConfig, ParetoConfig
from amc.config.run_folders import ExportConfig, ReportConfig
from amc.config.train import TrainConfig
from amc.metrics import IN_UNITS_OF_LOSS, METRICS, Evidence, selection_of
from amc.metrics.table import users_metric
from amc.models import build
from amc.objectives.budget import Budget
from amc.objectives.custom import users_objective
from amc.runtime.errors import AmcError
from amc.runtime.names import ALLOCATORS, RENAMED
from six_decisions import budget
from test_house import LEVELS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "experiments" / "README.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS: dict[str, Any] = {
    "amc.train": TrainConfig,
    "amc.inspect": InspectConfig,
    "amc.compare": CompareConfig,
    "amc.learn": LearnConfig,
    "amc.apply": ApplyConfig,
    "amc.pareto": ParetoConfig,
    "amc.latency": LatencyConfig,
    "amc.export": ExportConfig,
    "amc.report": ReportConfig,
}
MOST_BYTES = 9_000
FLAG = re.compile(r"--[a-z][a-z0-9-]*[a-z0-9]")


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def lines_of(text: str) -> Iterator[str]:
    """Command lines: of shell blocks, with their variables filled in, and between backticks."""
    for block in blocks(text, "sh"):
        variables: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            if name := re.fullmatch(r"(\w+)=(\S+)", line.strip()):
                variables[f"${name[1]}"] = name[2]
            for name, value in variables.items():
                line = line.replace(name, value)
            yield from line.split("&&")
    yield from re.findall(r"`([^`\n]+)`", prose(text))


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(module, arguments) of every ``-m amc.X`` with what precedes it: python or torchrun."""
    found = []
    for line in lines_of(text):
        if re.search(r"(python|torchrun)\b.*-m amc\.", line):
            words = shlex.split(line, comments=True)
            at = words.index("-m")
            found.append((words[at + 1], words[at + 2 :]))
    return found


SHOWN = [(shown(p), *c) for p in PAGES for c in commands(p.read_text())]


@pytest.mark.parametrize(
    ("page", "module", "arguments"), SHOWN, ids=[f"{p}: {m} {' '.join(a)}" for p, m, a in SHOWN]
)
def test_commands_parse(page: str, module: str, arguments: list[str]) -> None:
    if not arguments and module == "amc.apply":  # named, not to be run: it needs a policy or plan
        return
    parse(COMMANDS[module], module, arguments)


def test_every_command_line_is_looked_at() -> None:
    """As many as a plain search finds, so that none is skipped for how it is written."""
    for page in PAGES:
        text = page.read_text()
        plain = re.findall(r"^(?!from |import ).*(?:python|torchrun)\b.*?-m amc\.", text, re.M)
        assert len(commands(text)) >= len(plain), shown(page)


def test_readme_and_docs_show_all_commands() -> None:
    assert {module for page, module, _ in SHOWN if page == "README.md"} == set(COMMANDS)
    for module, config in COMMANDS.items():
        assert config.command == module
        assert f"`{module}`" in (DOCS / "usage.md").read_text()


def test_a_command_that_does_not_exist_would_fail() -> None:
    (module, arguments), *_ = commands("```sh\npython -m amc.train --episode 3\n```")
    with pytest.raises(AmcError, match="there is no --episode"):
        parse(COMMANDS[module], module, arguments)


def plain_flags(config: Any) -> set[str]:
    """Flags, ``--no-x`` counted as ``--x``; class attributes are none."""
    return {flag.replace("--no-", "--") for flag in known_flags(config)} - {
        "--command",
        "--anew",
        "--bare",
    }


def test_table_of_flags_is_complete() -> None:
    text = (DOCS / "usage.md").read_text()
    table = text[text.index("<!-- flags -->") : text.index("<!-- /flags -->")]
    columns = [row.split("|")[2] for row in table.splitlines() if row.startswith("|")]
    listed = [flag.replace("--no-", "--") for cell in columns for flag in FLAG.findall(cell)]
    assert len(listed) == len(set(listed)), "a flag is in two rows"
    exist = set().union(*(plain_flags(config) for config in COMMANDS.values()))
    assert set(listed) == exist


@pytest.mark.parametrize("page", PAGES, ids=map(shown, PAGES))
def test_flags_exist(page: Path) -> None:
    """Every flag that is spoken of, besides those of other programs and of scripts."""
    ours = {flag for config in COMMANDS.values() for flag in known_flags(config)} | {"--help"}
    ours |= {f"--{name}" for name in RENAMED}
    scripts = "".join(p.read_text() for p in (ROOT / "experiments").glob("*.py"))
    for code in re.findall(r"`([^`\n]+)`", prose(page.read_text())):
        if code.startswith(("pip", "mkdocs", "pytest", "ruff", "torchrun", "tensorboard")):
            continue
        for flag in FLAG.findall(code):
            name = flag.removeprefix("--").replace("-", "_")
            assert flag in ours or (code.startswith("python exp") and name in scripts), flag


def links(text: str) -> list[str]:
    found = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", prose(text))
    return [link for link in found if not link.startswith(("http://", "https://"))]


@pytest.mark.parametrize("page", PAGES, ids=map(shown, PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page.read_text()):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w-]+", "-", t.lower()).strip("-") for t in titles}, link


@pytest.mark.parametrize("page", PAGES, ids=map(shown, PAGES))
def test_named_files_exist(page: Path) -> None:
    """Paths between backticks: of this project, unless they are a reader's own."""
    text = page.read_text()
    tops = r"(?:amc|envs|agents|tests|experiments|examples|docs)"
    for path in re.findall(rf"`({tops}/[\w./]+)`", text):
        if f"**One new file**, here `{path}`" not in text:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=map(shown, PAGES))
def test_python_compiles(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        ast.parse(block)


def test_python_names_exist() -> None:
    """What blocks and tables call ``amc.x`` or import is there."""
    for page in (README, *sorted(DOCS.glob("*.md"))):
        text = page.read_text()
        for name in set(re.findall(r"\bamc\.([A-Za-z_]+)\(", text)):
            assert hasattr(amc, name), f"{shown(page)}: amc.{name}"
        for block in blocks(text, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module:
                    if node.module.split(".")[0] in ("amc", "envs"):
                        found = import_module(node.module)
                        assert all(hasattr(found, alias.name) for alias in node.names)


def test_public_names_are_documented() -> None:
    table, reference = (DOCS / "python.md").read_text(), (DOCS / "reference/index.md").read_text()
    for name in amc.__all__:
        assert f"[`{name}`][amc.{name}]" in table
        assert f"::: amc.{name}\n" in reference


def test_readme_is_short() -> None:
    assert len(README.read_bytes()) <= MOST_BYTES


def test_readme_marks_its_two_commands() -> None:
    text = README.read_text()
    for mark, ending in (("run", "-m amc.train --preserve-ratio 0.5"), ("test", "-m pytest")):
        block = re.search(rf"<!-- {mark} -->\n```sh\n(.*?)\n```", text, re.DOTALL)
        assert block and block.group(1).endswith(ending)


def test_first_tables_name_macs_accuracy_time_and_their_command() -> None:
    text = README.read_text()
    script = re.search(r"<!-- results: python (experiments/\S+\.py).* -->", text)
    assert script and (ROOT / script[1]).exists()
    blocks = text[script.end() :].split("\n\n")
    first, second, *_ = [block.strip().splitlines() for block in blocks if "|---" in block]
    for rows, words in ((first, ("MACs", "accuracy")), (second, ("MACs", "time"))):
        assert len(rows) - 2 <= 5 and all(word in rows[0] for word in words)


@pytest.mark.parametrize("page", [README, DOCS / "architecture.md"], ids=shown)
def test_picture_of_the_house_is_the_house(page: Path) -> None:
    picture = page.read_text().split("<!-- house -->\n```\n")[1].split("```")[0]
    for line in picture.splitlines():
        level = int(line[0])
        rooms = set(re.findall(r"(\w+)/", line)) | ({"."} if level == 7 else set())
        here = {f.removeprefix("amc/").split("/")[0] for f, n in LEVELS.items() if int(n) == level}
        assert rooms == {"." if f == "amc" else f for f in here}, line
    files = {p.stem for p in (ROOT / "amc").glob("*.py")} - {"__init__"}
    assert files <= set(picture.splitlines()[0].split())


def test_the_metric_of_its_page_works() -> None:
    """As it is shown: of three filters the one whose weights are all alike goes first."""
    page = (DOCS / "metrics.md").read_text()
    names: dict[str, Any] = {}
    example = blocks(page.split("<!-- example: metric -->\n")[1], "python")[0]
    exec(compile(example, "metrics.md", "exec"), names)
    assert len(example.split("def ")[1].splitlines()) <= 10
    import torch

    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2], [5, 5], [1, 4]]).reshape(3, 2, 1, 1))
    graph = amc.trace(model, (torch.zeros(2, 2, 4, 4),))
    metric = users_metric("metric", names["spread"])
    assert selection_of(metric, Evidence(graph, model, {}), graph.decisions[0])(2).tolist() == [
        0,
        2,
    ]
    network = build("mobilenet_v2", num_classes=10, in_channels=1, width=0.5)
    graph = amc.trace(network, (torch.zeros(2, 1, 16, 16),))
    for group in graph.decisions:
        assert len(selection_of(metric, Evidence(graph, network, {}), group)(3)) == 3


def test_the_page_of_metrics_names_them_all() -> None:
    page = (DOCS / "metrics.md").read_text()
    table = page[page.index("| name |") : page.index("Images are")]
    assert re.findall(r"^\| `(\w+)` ", table, re.MULTILINE) == list(METRICS)
    in_units = page[page.index("**In units of the loss**") : page.index("`movement`, a sum")]
    assert set(re.findall(r"`(\w+)`", in_units)) == IN_UNITS_OF_LOSS


def test_the_allocator_of_its_page_works() -> None:
    """In ten lines, and it does better than the strategy that it begins with."""
    page = (DOCS / "search.md").read_text().split("<!-- example: allocator -->\n")[1]
    example = blocks(page, "python")[0]
    names: dict[str, Any] = {"np": np}
    exec(compile(example, "search.md", "exec"), names)
    assert len(example.strip().splitlines()) <= 10
    limit = budget()
    proposals = answer(names["wide_at_the_end"], AllocationProblem(limit), "search.md")
    assert not isinstance(proposals, dict)
    found = [next(proposals)]
    for _ in range(8):  # rewarded for what the third group but last keeps
        found.append(proposals.send(float(found[-1]["6"])))
    assert max(strategy["6"] for strategy in found) > found[0]["6"]
    assert all(limit.allows(strategy) for strategy in found)


def test_the_page_of_allocators_names_them_all() -> None:
    page = (DOCS / "search.md").read_text()
    tables = page[page.index("## Allocators") : page.index("Scores of `taylor`")]
    rows = [row.split("|")[1] for row in tables.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z0-9]+)`", row)} == set(ALLOCATORS)


def test_the_objective_of_its_page_works(tmp_path: Path) -> None:
    (source,) = blocks((DOCS / "objectives.md").read_text(), "python")
    (tmp_path / "my_costs.py").write_text(source)
    graph = budget().graph
    made = users_objective(f"{tmp_path / 'my_costs.py'}:energy", graph)
    full = graph.counts({})
    assert made(full) == pytest.approx(3.1 * graph.macs() + 640 * graph.total_params)
    limited = Budget(graph, 0.5, objective=made)
    assert limited.allows(uniform(limited))


def test_site_builds(tmp_path: Path) -> None:
    """With every link, anchor and reference; nothing is fetched."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.rglob("index.html"):
        fetched = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="http', page.read_text()
        )
        assert not fetched, page
