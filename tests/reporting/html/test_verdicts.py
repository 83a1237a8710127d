"""What did not work is said."""

from pathlib import Path
from typing import Any

import pytest

from amc.reporting.html.record import record_of
from amc.reporting.html.verdicts import verdicts
from run_folders import change, finals, put, report, times, write


def told(folder: Path, **more: Any) -> list[tuple[str, str]]:
    run = record_of(write(folder, report(("first",), **more)))
    return [(one.tone, one.text) for one in verdicts(run)]


def limit(left: float) -> dict[str, Any]:
    return {"macs": {**change(1000, 1000 * left), "target": 0.5, "unit": "MACs"}}


def slow(ratio: float) -> list[dict[str, Any]]:
    return [{"runtime": "ort", "original": times(1), "pruned": times(ratio), "ratio": ratio}]


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "good", "49.5% of the MACs are left, 50.0% may stay."),
    ({"objective": limit(0.51)}, "bad", "The target is missed: 51.0% of the MACs are left"),
    ({"objective": limit(0.40)}, "note", "not used up: kept channels are multiples of 8."),
    ({"objective": {}, "target": None}, "note", "there was no budget"),
    ({}, "good", "Test accuracy is 94.50%, 95.00% before"),
    (
        {"accuracy": {"original": 0.95, "pruned": 0.9, "recovered": 0.93}},
        "bad",
        "93.00%, 95.00% before (\u22122.00 points), on 400 images: one standard error of each is "
        "about 1.28 points",
    ),
    (
        {"accuracy": {"original": 0.95, "pruned": 0.95, "recovered": 0.948}},
        "note",
        "Training has lowered test accuracy: it was 95.00% right after the cut.",
    ),
    ({}, "good", "2.00\u00d7 as fast in onnxruntime 1."),
    ({"latency_ms": slow(0.9)}, "bad", "Only 1.11\u00d7 as fast in ort with 49.5%"),
    ({"latency_ms": slow(1.1)}, "bad", "No faster in ort with 49.5% of the MACs."),
    ({"latency_ms": slow(1.0), "channel_multiple": 2}, "bad", "--channel-multiple 8"),
    (
        {"latency_ms": [{"runtime": "ort", "ratio": None, "problem": "no such op"}]},
        "note",
        "Not timed in ort: no such op",
    ),
    ({"finals": finals("uniform")}, "bad", "Widths do not matter here"),
    ({"finals": finals("search 1")}, "good", "search 1 is 1.00 ± 0.40 better than uniform"),
    (
        {"max_drop": {"tolerated": 1.0, "points": 0.4, "error": 0.3, "images": 200}},
        "good",
        "1 points of accuracy might be lost; 0.40 ± 0.30 are, on 200 images",
    ),
    (
        {"exports": [{"format": "onnx", "problem": "no such op"}]},
        "bad",
        "Not exported as onnx: no such op.",
    ),
    ({}, "good", "The best of 4 strategies, episode 2, has a reward of \u22120.1"),
]


@pytest.mark.parametrize(("more", "tone", "text"), CASES, ids=[text[:30] for _, _, text in CASES])
def test_sentence(tmp_path: Path, more: dict[str, Any], tone: str, text: str) -> None:
    found = told(tmp_path, **more)
    assert [one for one in found if one[0] == tone and text in one[1]], found


def test_an_agent_that_has_not_learned(tmp_path: Path) -> None:
    folder = write(tmp_path)
    put(folder / "search.json", {"agent": "ddpg", "warmup": 4, "without_noise": None})
    texts = [one.text for one in verdicts(record_of(folder))]
    assert "The agent has not learned: all 4 episodes were warm-up." in texts


def test_a_search_that_finds_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path)
    lines = (folder / "episodes.jsonl").read_text().replace("-0.5", "-0.01")
    (folder / "episodes.jsonl").write_text(lines)
    found = [one for one in verdicts(record_of(folder)) if "nothing better" in one.text]
    assert [one.tone for one in found] == ["bad"]


@pytest.mark.parametrize(
    ("scores", "text"),
    [([0.9, 0.8, 0.85], "does not come above 90.00%"), ([0.9], "Training has diverged")],
)
def test_training_that_does_not_help(tmp_path: Path, scores: list[float], text: str) -> None:
    folder = write(tmp_path)
    one = {"stage": 0, "again": False, "rate": 0.05, "first_epoch": 0, "scores": scores}
    put(folder / "trainings.json", {"trainings": [one]})
    assert any(text in one.text for one in verdicts(record_of(folder)))
