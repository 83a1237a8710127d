"""A run folder that no run has made: everything in it is written down here."""

import json
from pathlib import Path
from typing import Any

EVIL = "<script>alert(1)</script>|`*"
"""What somebody calls a layer."""


def change(original: float, pruned: float) -> dict[str, float]:
    return {"original": original, "pruned": pruned, "ratio": pruned / original}


def layer(name: str, before: int, after: int, macs: int = 1000) -> dict[str, Any]:
    return {
        "name": name, "kind": "conv2d", "group": name, "in_channels": change(3, 3),
        "out_channels": change(before, after), "macs": change(macs, macs * after // before),
    }  # fmt: skip


def report(names: tuple[str, ...] = ("first", EVIL), **more: Any) -> dict[str, Any]:
    told = {
        "mode": "auto",
        "target": 0.5,
        "objective": {"macs": {**change(2_000_000, 990_000), "target": 0.5, "unit": "MACs"}},
        "max_drop": None,
        "channel_multiple": 8,
        "macs": change(2_000_000, 990_000),
        "params": change(5_000, 2_100),
        "file_bytes": change(20_000, 9_000),
        "latency_ms": [timing("PyTorch 2", 2.0, 1.9), timing("onnxruntime 1", 1.0, 0.5)],
        "accuracy": {"original": 0.95, "pruned": 0.75, "recovered": 0.945},
        "episodes": 4,
        "seconds": {"search": 12.3, "total": 65.0},
        "layers": [layer(name, 16, 8) for name in names],
        "frozen": {"out": "network output"},
        "finals": [],
        "images": 400,
        "score": {"name": "accuracy", "percent": True},
        "made_by": {"versions": {"torch": "2.13.0"}, "device": "CPU", "threads": 1},
    }
    return {**told, **more}


def timing(runtime: str, before: float, after: float) -> dict[str, Any]:
    both = {"original": times(before), "pruned": times(after)}
    return {"runtime": runtime, **both, "ratio": after / before, "problem": ""}


def times(fastest: float) -> dict[str, float]:
    return {"median": fastest, "iqr": 0.01, "fastest": fastest}


def finals(winner: str) -> list[dict[str, Any]]:
    entries = [
        {"name": "search 1", "score": 0.97, "difference": 1.0, "error": 0.4, "first": False},
        {"name": "uniform", "score": 0.96, "difference": 0.0, "error": 0.0, "first": True},
    ]
    return [
        {"epochs": 1, "before": 0, "images": 90, "finalists": entries, "goes_on": [winner]},
    ]


def write(folder: Path, told: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A folder with a search of four episodes and a training of two epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    told = report() if told is None else told
    chosen = {"model": "resnet20", "data": "digits", "episodes": 4, "warmup_episodes": 2}
    put(folder / "config.json", {**chosen, "seed": 3, "threads": 1, **settings})
    if told:
        put(folder / "report.json", told)
    names = [one["name"] for one in told.get("layers", ())] or ["first"]
    lines = [json.dumps({"format": "amc-episodes/2"})]
    for number, reward in enumerate((-0.5, -40.0, -0.1, -0.2)):
        strategy = {name: 4 * (1 + number) for name in names}
        lines.append(json.dumps({"episode": number, "reward": reward, "strategy": strategy}))
    (folder / "episodes.jsonl").write_text("\n".join(lines) + '\n{"episode": 4, "rew')
    put(folder / "search.json", {"agent": "ddpg", "warmup": 2, "without_noise": 3})
    one = {"stage": 0, "again": False, "rate": 0.05, "first_epoch": 0, "scores": [0.7, None, 0.9]}
    put(folder / "trainings.json", {"trainings": [one]})
    return folder


def put(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
