"""The page in a real Chromium without a network: it fits a phone, asks for nothing, has a PDF."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from amc.reporting.html.record import record_of
from amc.reporting.html.run_page import page
from run_folders import report, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --hide-scrollbars
    --host-resolver-rules=MAP * ~NOTFOUND
""".strip()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]

PROBE = """
<script>addEventListener("load", () => { const found = {
  asked: performance.getEntriesByType("resource").length,
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  harmed: typeof harmed, width: innerWidth,
  clipped: [...document.querySelectorAll(".card .value")].filter(
    one => one.scrollWidth > one.clientWidth + 1).length };
document.title = JSON.stringify(found); })</script>
"""
"""Looks at the page from within; the page's own rules, which forbid scripts, are taken off."""


def chromium(folder: Path, *words: str) -> str:
    flags = [" ".join(one.split()) for one in re.split(r"\s(?=--)", QUIET)]
    own = f"--user-data-dir={folder / 'profile'}"
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *flags, own, *words], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.mark.parametrize("width", [500, 1280])  # a headless window is no narrower than 500
def test_it_fits_and_asks_for_nothing(tmp_path: Path, width: int) -> None:
    names = ("first", "backbone.stages.0.blocks.3.convolution", "<script>harmed = 1</script>")
    text = page(record_of(write(tmp_path, report(names))))
    probed = re.sub(r"<meta http-equiv[^>]*>", PROBE, text)
    assert probed != text
    (tmp_path / "probed.html").write_text(probed)
    size = f"--window-size={width},900"
    dom = chromium(tmp_path, size, "--dump-dom", (tmp_path / "probed.html").as_uri())
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title is not None
    found = json.loads(title[1])
    expected = {"asked": 0, "wider": 0, "harmed": "undefined", "clipped": 0, "width": width}
    assert found == expected


def test_a_phone_shows_everything_within_its_width(tmp_path: Path) -> None:
    text = page(record_of(write(tmp_path, report(("layer1.0.conv1", "a_long.name" * 5)))))
    probe = PROBE.replace("document.title", "top.document.title")
    (tmp_path / "inside.html").write_text(re.sub(r"<meta http-equiv[^>]*>", probe, text))
    frame = '<iframe src="inside.html" style="width: 375px; height: 800px"></iframe>'
    (tmp_path / "frame.html").write_text(f"<title>x</title>{frame}")
    dom = chromium(
        tmp_path, "--allow-file-access-from-files", "--disable-web-security", "--dump-dom",
        "--virtual-time-budget=3000", (tmp_path / "frame.html").as_uri(),
    )  # fmt: skip
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title is not None and json.loads(title[1])["wider"] == 0


def test_it_prints(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page(record_of(write(tmp_path))))
    paper = tmp_path / "page.pdf"
    chromium(tmp_path, f"--print-to-pdf={paper}", (tmp_path / "page.html").as_uri())
    assert paper.read_bytes().startswith(b"%PDF") and paper.stat().st_size > 20_000
