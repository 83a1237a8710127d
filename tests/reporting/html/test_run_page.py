"""The page of a run: whole, readable without pictures, harmless, and true."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from amc.reporting.html.charts import abbreviated
from amc.reporting.html.record import record_of
from amc.reporting.html.run_page import markdown, page, write_run
from amc.runtime.errors import AmcError
from run_folders import EVIL, finals, report, write

VOID = {"meta", "link", "br", "wbr", "data-"}


class Page(HTMLParser):
    """Elements with their attributes; the text; that tags are closed as they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self.open = "", list[str]()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.text += text if self.open[-1:] != ["style"] else ""

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    folder = write(tmp_path_factory.mktemp("run"), report(finals=finals("uniform")))
    text = page(record_of(folder))
    return text, Page(text)


def test_every_picture_has_a_text(made: tuple[str, Page]) -> None:
    pictures = made[1].all("svg")
    assert len(pictures) > 8
    for one in pictures:
        assert one.get("aria-hidden") == "true" or (one["role"] == "img" and one["aria-label"])


def test_nothing_comes_from_elsewhere(made: tuple[str, Page]) -> None:
    text, parsed = made
    assert not parsed.all("script") and not parsed.all("iframe") and not parsed.all("img")
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", text)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_names_do_no_harm(made: tuple[str, Page]) -> None:
    assert "alert(1)</script" not in made[0]
    assert EVIL in made[1].text


def test_structure(made: tuple[str, Page]) -> None:
    _, parsed = made
    assert len(parsed.all("h1")) == len(parsed.all("main")) == 1
    assert parsed.all("html")[0]["lang"] == "en"
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for attrs in parsed.all("th"):
        assert attrs["scope"] in ("row", "col")
    for heading in ("Layers", "Search", "Finals", "Training", "Once more"):
        assert heading in parsed.text


def test_numbers_are_those_of_the_report(made: tuple[str, Page]) -> None:
    told = report()
    values = [float(one["value"]) for one in made[1].all("data")]
    cards = [told["accuracy"]["recovered"], *(told[k]["pruned"] for k in ("macs", "params"))]
    assert values[:5] == [*cards, told["file_bytes"]["pruned"], 0.5]
    assert values[5:] == [one["macs"]["ratio"] for one in told["layers"]]
    for shown in ("94.50%", "−0.50 points", "990 k", "49.5% left", "2.00× as fast"):  # noqa: RUF001
        assert shown in made[1].text


def test_pages_of_older_versions(tmp_path: Path) -> None:
    for name in report():
        told = report()
        del told[name]
        assert "resnet20 on digits" in markdown(record_of(write(tmp_path, told)))
    for name in ("config.json", "episodes.jsonl", "search.json", "trainings.json"):
        folder = write(tmp_path / name.partition(".")[0])
        (folder / name).unlink()
        Page(page(record_of(folder)))


def test_a_run_that_has_not_ended_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "report.json").unlink()
    parsed = Page(page(record_of(folder)))
    assert "has not come to its end" in parsed.text and "Reward by episode" in parsed.text


def test_long_networks_stay_usable(tmp_path: Path) -> None:
    names = tuple(f"backbone.stages.{i}.blocks.conv_depthwise.parametrized" for i in range(150))
    folder = write(tmp_path, report(names))
    text = page(record_of(folder))
    assert Page(text).text.count("parametrized") >= 150
    assert 'class="frame tall"' in text and len(text) < 600_000


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    run = record_of(write(tmp_path))
    assert page(run) == page(run)


def test_markdown_is_a_table_that_github_reads(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert write_run(folder) == [folder / "report.html", folder / "report.md"]
    text = (folder / "report.md").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        rows = [re.findall(r"(?<!\\)\|", row) for row in table.splitlines()]
        assert len({len(row) for row in rows}) == 1
    assert (
        "OMP_NUM_THREADS=1 python -m amc.train \\\n    --episodes 4 \\\n    --warmup-episodes 2"
        in text
    )


def test_a_file_of_somebody_else_stays(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "report.html").write_text("<html>my thesis</html>")
    with pytest.raises(AmcError, match="of something else"):
        write_run(folder)
    assert (folder / "report.html").read_text() == "<html>my thesis</html>"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("backbone.stages.0.3.conv", "b.stages.0.3.conv"),
        ("backbone.feature_pyramid.10.3.depthwise_mixing", "b.f.10.3.depthwise…"),
        ("a_name_without_any_dots", "a_name_without_any…"),
    ],
)
def test_short_names_differ_where_the_names_do(name: str, short: str) -> None:
    assert abbreviated(name, 19) == short


def test_exports_are_listed(tmp_path: Path) -> None:
    made = {"format": "onnx", "file": "pruned.onnx", "bytes": 5_500_000, "error": 3.2e-7}
    eight = {"accuracy": 0.944, "latency_ms": 0.1234}
    exports = [
        {**made, "tolerance": 1e-4, "int8": None},
        {**made, "file": "pruned.int8.onnx", "tolerance": 0.5, "int8": eight},
        {"format": "pt2", "problem": "<b>no</b>"},
    ]
    run = record_of(write(tmp_path, report(exports=exports)))
    parsed = Page(page(run))
    for shown in ("5.5 MB", "3.2e-07", "0.0001", "94.40%", "0.123 ms", "not written: <b>no</b>"):
        assert shown in parsed.text
    assert "| pruned.int8.onnx | 5.5 MB |" in markdown(run)
