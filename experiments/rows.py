"""Rows of a table: cells and arms, measured by any number of processes that share the work.

Rows are appended to one file; what is in it is not measured again.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from cells import TORCH_PRUNING, Cell, Lab, Ready

from amc.runtime.memory import keep_freed


@lru_cache(maxsize=1)
def lab(cell: Cell, common: str, weights: Path) -> Lab:
    """The lab of a cell; the last one is remembered."""
    return Lab(cell, json.loads(common), weights)


@dataclass(frozen=True)
class Work:
    """Cells, the arms that are compared in them, and the file of rows.

    Attributes:
        cells: in any order; those of one network, data and seed share a lab.
        arms: the same in every cell, in order of worth: ``name`` or ``name+setting=value``.
        known: name -> settings of a run, or a strategy that needs no search.
        common: settings of all arms.
        out: file of rows.
        weights: folder of weights, see `Lab`.
        proxies: whether rows tell what is known before the training.
    """

    cells: Sequence[Cell]
    arms: Sequence[str]
    known: dict[str, dict[str, Any] | Ready]
    common: dict[str, Any]
    out: Path
    weights: Path = Path("weights")
    proxies: bool = False

    def share(self, worker: int = 0) -> None:
        """Measures what nobody else does; several processes may do so at once."""
        keep_freed()
        places = self.out.with_suffix(".claims")
        labs: dict[Cell, list[Cell]] = {}
        for cell in self.cells:
            labs.setdefault(Cell(cell.network, cell.data, 1.0, 1, cell.seed), []).append(cell)
        order = list(labs)[worker % len(labs) :] + list(labs)[: worker % len(labs)]
        for key in order:
            for cell, arm in ((c, a) for a in self.arms for c in labs[key]):
                if self._claimed(places, cell, arm):
                    self._measure(key, cell, arm)

    def _claimed(self, places: Path, cell: Cell, arm: str) -> bool:
        name = _claim((*asdict(cell).values(), arm))
        try:
            os.close(os.open(places / name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def _measure(self, key: Cell, cell: Cell, arm: str) -> None:
        start, common = time.perf_counter(), json.dumps(self.common)
        name, _, rest = arm.partition("+")
        own = {k: _value(v) for k, _, v in (one.partition("=") for one in rest.split("+") if one)}
        try:
            place = lab(key, common, self.weights)
            if name in TORCH_PRUNING:
                found = place.of_torch_pruning(cell, name, own)
            else:
                way = self.known[name]
                ready = way if callable(way) else None
                settings = own if callable(way) else {**way, **own}
                found = place.ours(cell, settings, ready, self.proxies)
        except Exception as error:  # one arm that fails must not end the night
            found = {"failed": f"{type(error).__name__}: {error}"[:300]}
        gc.collect()
        torch.cuda.empty_cache()  # what a record has held
        row = {**asdict(cell), "arm": arm, **found, "seconds": time.perf_counter() - start}
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(*asdict(cell).values(), arm, f"{row.get('cut', 0):.4f} {row.get('trained', 0):.4f}",
              f"{row['seconds']:.0f} s", row.get("failed", ""), flush=True)  # fmt: skip


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def rows(path: Path) -> list[dict[str, Any]]:
    """What is known, without arms that failed, do not exist, or missed the target."""
    found = [json.loads(line) for line in path.open()] if path.exists() else []
    reached = [row for row in found if row.get("macs", 1) <= 1.02 * row["ratio"]]
    return [row for row in reached if "trained" in row]


def settle(out: Path) -> None:
    """Makes claims what rows say: those of processes that were stopped are free again."""
    found = [json.loads(line) for line in out.open()] if out.exists() else []
    names = {_claim(_key(row)) for row in found if "failed" not in row}
    places = out.with_suffix(".claims")
    places.mkdir(parents=True, exist_ok=True)
    for claim in places.iterdir():
        if claim.name not in names:
            claim.unlink()
    for name in names:
        (places / name).touch()


def _claim(key: Iterable[Any]) -> str:
    return "-".join(map(str, key)).replace("/", "_")


def _key(row: dict[str, Any]) -> Iterable[Any]:
    return (row[k] for k in ("network", "data", "ratio", "multiple", "seed", "arm"))


def measured(work: Work, jobs: int, worker: int | None, show: bool) -> bool:
    """Measures what is missing; whether the table is to be shown after that.

    Args:
        work: of the table.
        jobs: processes side by side.
        worker: which of them this is; None for the one that begins them.
        show: measure nothing.
    """
    if worker is not None:
        work.share(worker)
        return False
    if not show:
        settle(work.out)
        if jobs > 1:
            side_by_side(jobs)
        else:
            work.share()
    return True


def side_by_side(jobs: int) -> None:
    """This very command in so many processes of one thread each, until all have ended."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = [
        subprocess.Popen([sys.executable, *sys.argv, "--worker", str(n)], env=environment)
        for n in range(jobs)
    ]
    for one in begun:
        one.wait()
