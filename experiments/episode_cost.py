"""What an episode of the search costs, against its floor: one validation pass.

    python experiments/episode_cost.py --model resnet20 --data digits --preserve-ratio 0.5

Everything is measured within one process, on strategies of random walks; compare the ratios, the
milliseconds depend on the machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro

from agents import AmcDDPG
from amc.allocate import uniform
from amc.budget import Budget
from amc.compress import Compressor, calibrate
from amc.data import load_data
from amc.evaluate import evaluate, head
from amc.graph import trace
from amc.metric import SELECTORS
from amc.plan import Strategy
from amc.pretrain import pretrained
from amc.search import proxy
from amc.solve.stats import Sampling
from envs import ChannelPruningEnv, Outcome
from envs.rewards import loss


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    model: str = "resnet20"
    data: str = "digits"
    preserve_ratio: float = 0.5
    episodes: int = 60


def median_ms(action: Callable[[], object], repeats: int) -> float:
    """Median wall milliseconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Prints the table."""
    setting = tyro.cli(Setting)
    data = load_data(setting.data)
    model, _ = pretrained(setting.model, 1.0, data)
    images, validation = head(data.calibration, 1920, 32), head(data.val, 1000, 256)
    graph = trace(model.eval(), (images[0][0][:2],))
    budget = Budget(graph, setting.preserve_ratio)
    stats = calibrate(graph, model, images, Sampling())
    compressor = Compressor(graph, model, stats, SELECTORS["lasso"])
    small = compressor.cut(uniform(budget))
    evaluate(small, validation)
    floor = median_ms(lambda: evaluate(small, validation), 15)

    def nothing(strategy: Strategy) -> Outcome:
        return outcome

    outcome = proxy(compressor, validation)(uniform(budget))
    rng = np.random.default_rng(0)
    strategies = [random_walk(budget, rng) for _ in range(setting.episodes)]
    queue = iter(strategies + strategies)
    first = median_ms(lambda: compressor.cut(next(queue)), len(strategies))
    again = median_ms(lambda: compressor.cut(next(queue)), len(strategies))
    walk = median_ms(lambda: random_walk(budget, rng), 30)
    agent = AmcDDPG(ChannelPruningEnv(budget, nothing, loss), warmup_episodes=2)
    agent.learn_episodes(4)
    learn = median_ms(lambda: agent.learn_episodes(1), 20) - walk

    print(f"{setting.model}, {setting.data}, {setting.preserve_ratio:g} of the MACs")
    print("| part of an episode | ms | of a validation pass |")
    print("|---|---|---|")
    for name, value in (
        (
            f"validation pass of the uniform cut, {sum(len(y) for _, y in validation)} images",
            floor,
        ),
        ("environment and budget", walk),
        ("cut, solutions not seen before", first),
        ("cut, solutions remembered", again),
        (f"agent, {len(graph.decisions)} gradient steps", learn),
    ):
        print(f"| {name} | {value:.1f} | {value / floor:.2f} |")


def random_walk(budget: Budget, rng: np.random.Generator) -> dict[str, int]:
    """A strategy of random actions."""
    decided: list[int] = []
    for _ in budget.options:
        decided.append(budget.execute(decided, float(rng.random()))[0])
    return budget.strategy(budget.complete(decided))


if __name__ == "__main__":
    main()
