"""May the shared weights be believed? Their uniform slice, and their order of plans.

    python experiments/shared_gate.py --data digits --ratios 0.1
    python experiments/shared_gate.py --model mobilenet_v2 --width 0.25 --data glyphs --device cuda

Two questions, for every part of the MACs:

* The uniform slice against the uniform cut, reconstructed and trained alone for as many epochs.
* Diverse plans, each trained for real from its slice: how much worse is the one that the slices
  call the best (regret), and do they agree in order (Spearman)?

Accuracies are of the test split, in percent; the slices are judged on the images of the reward.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tyro
from scipy.stats import spearmanr

from amc.config.train import TrainConfig
from amc.runs.terminal import Terminal
from amc.runtime.files import append
from amc.steps.cut import calibrate, cut
from amc.steps.finetune import Recovery
from amc.steps.job import open_job
from amc.steps.limits import make_budget
from amc.steps.search import evaluator
from amc.steps.setup import build_network, load_network, trace_network
from amc.steps.shared import Shared, share


@dataclass(frozen=True)
class Gate:
    """What to look at."""

    model: str = "resnet20"
    width: float = 1.0
    data: str = "glyphs"
    checkpoint: Path | None = None
    ratios: tuple[float, ...] = (0.15,)
    multiple: int = 1
    metric: str = "obs"
    plans: int = 6
    """Plans that are trained, the uniform one among them; 0: only the uniform slice."""
    epochs: int = 5
    """Of the training of each of them."""
    shared_epochs: int = 3
    shared_ratio: float = 2.0
    learning_rate: float | None = None
    seed: int = 0
    device: str = "auto"
    file: Path = Path("runs/shared_gate.jsonl")


def measured(gate: Gate, ratio: float) -> dict[str, Any]:
    """The gate of one cell."""
    config = TrainConfig.of(
        model=gate.model, width=gate.width, data=gate.data, checkpoint=gate.checkpoint,
        preserve_ratio=ratio, channel_multiple=gate.multiple, metric=gate.metric, regime="shared",
        shared_epochs=gate.shared_epochs, shared_ratio=gate.shared_ratio, seed=gate.seed,
        learning_rate=gate.learning_rate, device=gate.device,
    )  # fmt: skip
    job = open_job(config, Terminal(quiet=False))
    given = build_network(job, config.network)
    graph = trace_network(job, given, config.restrictions)
    network = load_network(job, given, graph, config.network, config.data)
    compressor = calibrate(job, graph, network.model)
    budget = make_budget(graph, ratio, config)
    with TemporaryDirectory() as folder:
        recovery = Recovery(
            job, graph, network.model, config.training, config.distill, config.data, None,
            Path(folder),
        )  # fmt: skip
        shared = share(recovery, compressor, [budget])
        found = uniform(gate, recovery, shared)
        return {"ratio": ratio, **found, **fidelity(gate, recovery, shared)}


def uniform(gate: Gate, recovery: Recovery, shared: Shared) -> dict[str, float]:
    """The uniform slice, and the uniform cut that was trained alone for as long."""
    job, weights = recovery.job, shared.weights
    plan = weights.plan(shared.band.centres[0][0])
    alone = cut(job, weights, plan)
    trained = recovery.once(alone, plan, gate.shared_epochs, "alone")
    scores = {"slice": shared.cut(plan), "alone_cut": alone, "alone": trained}
    return {name: 100 * job.tested(one).accuracy for name, one in scores.items()}


def fidelity(gate: Gate, recovery: Recovery, shared: Shared) -> dict[str, Any]:
    """What diverse plans score as slices, and once they are trained."""
    rng, plans = np.random.default_rng(gate.seed + 1), list(shared.band.centres[0])[: gate.plans]
    while len(plans) < gate.plans:
        plans += [one for one in shared.band.draw(rng) if one not in plans]
    job, recipe = recovery.job, recovery.training
    judge = evaluator(job, shared.weights, recipe, recovery.distill)
    rows = []
    for number, strategy in enumerate(plans[: gate.plans]):
        plan = shared.weights.plan(strategy)
        tuned = recovery.once(shared.cut(plan), plan, gate.epochs, f"plan-{number}")
        reward = job.reward(judge(strategy))
        rows.append({"reward": reward, "trained": 100 * job.tested(tuned).accuracy})
    if len(rows) < 3:
        return {"plans": rows}
    rewards, trained = (np.array([row[name] for row in rows]) for name in ("reward", "trained"))
    regret = float(trained.max() - trained[rewards.argmax()])
    return {"plans": rows, "regret": regret, "spearman": float(spearmanr(rewards, trained)[0])}


def main(gate: Gate) -> None:
    """Measures every part of the MACs; a row each."""
    gate.file.parent.mkdir(parents=True, exist_ok=True)
    for ratio in gate.ratios:
        row = {**vars(gate), **measured(gate, ratio)}
        append(gate.file, json.dumps(row, default=str))
        print(
            f"{gate.model} {ratio:g}: uniform slice {row['slice']:.2f}, alone {row['alone']:.2f} "
            f"({row['alone_cut']:.2f} after the cut), regret {row.get('regret', 0):.2f}, "
            f"Spearman {row.get('spearman', 0):.2f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Gate))
