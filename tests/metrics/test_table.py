"""Metrics by name, and those of the user's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.graph.groups import ChannelGroup
from amc.metrics import METRICS, Evidence, load_metric, scores_of, selection_of
from amc.metrics.table import users_metric
from amc.runtime.errors import AmcError

OWN = """
def scores(evidence, group):
    return evidence.model[0].weight.flatten(1).norm(dim=1)

def selection(evidence, group):
    return lambda count: list(range(count))
"""


@pytest.fixture(scope="module")
def given() -> tuple[Evidence, ChannelGroup]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    graph = amc.trace(model, (torch.zeros(2, 1, 4, 4),))
    return Evidence(graph, model, {}), graph.decisions[0]


def test_a_name_is_a_metric_of_the_table_or_a_function(tmp_path: Path, given: Any) -> None:
    assert load_metric("l2") is METRICS["l2"]
    path = tmp_path / "own.py"
    path.write_text(OWN)
    model = given[0].model
    metric = load_metric(f"{path}:scores")
    expected = model[0].weight.detach().flatten(1).norm(dim=1).numpy()
    assert np.array_equal(scores_of(metric, *given), expected)
    best = np.sort(np.argsort(-expected)[:3])
    assert np.array_equal(selection_of(metric, *given)(3), best)
    chosen = load_metric(f"{path}:selection")
    assert scores_of(chosen, *given) is None
    assert selection_of(chosen, *given)(2).tolist() == [0, 1]
    with pytest.raises(AmcError, match=r"'laso' is unknown; allowed: .*; did you mean 'lasso'"):
        load_metric("laso")
    with pytest.raises(AmcError, match="has nothing called score; did you mean scores"):
        load_metric(f"{path}:score")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "got NoneType"),
        (3.0, "got float"),
        (np.zeros(4), r"got float64 \[4\]"),
        (torch.zeros(5, 1), r"got float64 \[5, 1\]"),
        (torch.zeros(5, device="meta"), r"got torch.float32 \[5\]"),
        (torch.zeros(5).to_sparse(), r"got torch.float32 \[5\]"),
        (np.array(list("abcde")), r"got <U1 \[5\]"),
        (np.array([1, 2, np.nan, 4, 5]), "got scores that are not finite"),
    ],
    ids=str,
)
def test_what_are_no_scores_is_told_in_one_line(given: Any, found: Any, said: str) -> None:
    metric = users_metric("--metric a:f", lambda evidence, group: found)
    with pytest.raises(AmcError, match="--metric a:f: 0: must return an array of 5 .*" + said):
        metric(*given)


@pytest.mark.parametrize("kept", [[0], [0, 0], [1, 0], [3, 5], [-1, 2], [0.0, 1.0], "ab"])
def test_a_selection_of_something_else_is_told_in_one_line(given: Any, kept: Any) -> None:
    select = selection_of(users_metric("metric", lambda e, g: lambda count: kept), *given)
    with pytest.raises(AmcError, match="0: its selection must return 2 different channels below"):
        select(2)


def test_a_function_that_fails_is_told_with_its_line(given: Any) -> None:
    with pytest.raises(AmcError, match="metric: 0: ZeroDivisionError: division by zero"):
        users_metric("metric", lambda evidence, group: 1 / 0)(*given)


def test_whole_numbers_and_tensors_that_want_gradients_are_scores(given: Any) -> None:
    halves = torch.arange(5, dtype=torch.bfloat16)
    for own in (torch.arange(5), torch.arange(5.0).requires_grad_(), np.arange(5), halves):
        found = scores_of(users_metric("metric", lambda e, g, own=own: own), *given)
        assert (
            found is not None and found.dtype == np.float64 and found.tolist() == [0, 1, 2, 3, 4]
        )


def test_a_metric_that_changes_the_network_is_refused(given: Any) -> None:
    evidence, group = given

    def zeroing(evidence: Any, group: Any) -> Any:
        with torch.no_grad():
            next(evidence.model.parameters()).mul_(1)
        return np.arange(5)

    def training(evidence: Any, group: Any) -> Any:
        evidence.model.train()
        return np.arange(5)

    evidence.model.eval()
    for changing in (zeroing, training):
        with pytest.raises(AmcError, match="metric: 0: it has changed the network"):
            users_metric("metric", changing)(evidence, group)
