"""What is a learned policy worth under other budgets and on other networks?

    python experiments/reuse.py --data glyphs --learn 0.3:0.7 --ratios 0.3 0.5 0.7
    python experiments/reuse.py --learn 0.08:0.2 --ratios 0.1 --models resnet56 plain20

Against the uniform strategy and a search of its own for every budget: test accuracy after the cut,
without training, and the reward as the search sees it. The gain is that over the uniform strategy.
Runs that are already in the folder are not repeated.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from amc.config.many_budgets import LearnConfig
from amc.config.train import TrainConfig
from amc.learn import run as learn
from amc.train import run


@dataclass(frozen=True)
class Table:
    """What to run."""

    learned_on: str = "resnet20"
    learn: str = "0.3:0.7"
    models: tuple[str, ...] = ("resnet20",)
    data: str = "digits"
    ratios: tuple[float, ...] = (0.3, 0.5, 0.7)
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 200
    more: int = 20
    """Episodes of a search that begins with the policy."""
    folder: Path = Path("runs/reuse")


def policy(table: Table, seed: int) -> Path:
    """The folder of a policy, which is learned unless it is there."""
    folder = table.folder / f"learn-{table.learned_on}-{table.data}-{table.learn}-{seed}"
    if not (folder / "learned.json").exists():
        learn(
            LearnConfig.of(
                model=table.learned_on,
                data=table.data,
                preserve_ratio=table.learn,
                episodes=table.episodes,
                seed=seed,
                run_dir=folder,
                quiet=True,
            )
        )
    return folder


def outcome(table: Table, model: str, ratio: float, seed: int, kind: str) -> dict[str, Any]:
    """Test accuracy of a run, and the rewards of its search, if it had one."""
    settings: dict[str, dict[str, Any]] = {
        "uniform": {"mode": "uniform"},
        "own search": {"episodes": table.episodes},
        "policy": {"mode": "policy"},
        f"policy, {table.more} episodes": {"episodes": table.more},
    }
    own = settings[kind]
    if kind.startswith("policy"):
        own["policy"] = policy(table, seed)
    name = f"{model}-{table.data}-{ratio:g}-{kind.replace(', ', '-').replace(' ', '-')}-{seed}"
    folder = table.folder / (f"{table.learn}-{name}" if "policy" in own else name)
    if not (folder / "report.json").exists():
        config = TrainConfig.of(
            model=model,
            data=table.data,
            preserve_ratio=ratio,
            seed=seed,
            finetune_epochs=0,
            run_dir=folder,
            quiet=True,
            **own,
        )
        started = (folder / "config.json").exists()
        run(TrainConfig.of(resume=folder, quiet=True) if started else config)
    report = json.loads((folder / "report.json").read_text())
    assert report["macs"]["ratio"] <= ratio
    episodes = folder / "episodes.jsonl"
    lines = episodes.read_text().splitlines()[1:] if episodes.exists() else []
    return {
        "accuracy": 100 * report["accuracy"]["pruned"],
        "rewards": [json.loads(line)["reward"] for line in lines],
    }


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation, or the value alone."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def main() -> None:
    """Runs what is missing and prints the table."""
    table = tyro.cli(Table)
    some = f"policy, {table.more} episodes"
    print("| network | MACs | strategy | test accuracy, cut | reward | of the gain in reward |")
    print("|---|---|---|---|---|---|")
    for model, ratio in product(table.models, table.ratios):
        found = {
            kind: [outcome(table, model, ratio, seed, kind) for seed in table.seeds]
            for kind in ("uniform", "policy", some, "own search")
        }
        first = [one["rewards"][0] for one in found[some]]
        # tried first: the uniform strategy, the policy's own, what it remembers, the greedy one
        rewards = {
            "uniform": first,
            "policy": [max(one["rewards"][1:5]) for one in found[some]],
            some: [max(one["rewards"]) for one in found[some]],
            "own search": [max(one["rewards"]) for one in found["own search"]],
        }
        for kind, values in rewards.items():
            gains = zip(values, first, rewards["own search"], strict=True)
            share = [100 * (own - least) / (most - least) for own, least, most in gains]
            accuracy = spread([one["accuracy"] for one in found[kind]], 1)
            print(
                f"| {model}, {table.data} | {ratio:g} | {kind} | {accuracy} "
                f"| {spread(values, 4)} | {'' if kind == 'uniform' else spread(share, 0)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
