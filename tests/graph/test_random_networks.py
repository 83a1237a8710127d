"""Random networks: tracing never fails; every cut equals the mask, costs what was said, trains.

A case that fails is made smaller by deleting steps, and printed as Python. To look at one:

    from random_networks import Spec, Step, build
    model, inputs = build(Spec(seed=3, steps=(Step("conv", 0, 2, 1), ...)))
    print(amc.trace(model, inputs))
"""

import copy
import io
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import amc
from oracles import counting
from random_networks import KINDS, Network, Spec, Step, build, random_spec

TOLERANCE = 1e-4
QUICK = range(48)
SLOW = range(len(QUICK), len(QUICK) + 320)
FAILED_ONCE = {
    "two channels, of which a view takes pairs": Spec(
        169, (Step("slice", 0, 4, 2), Step("parts", 0, 50, 5), Step("shuffle", 2, 26, 6))
    ),
    "two channels in a hand-written pixel shuffle": Spec(
        117, (Step("pixel", 0, 2, 9), Step("dense", 0, 35, 0))
    ),
    "two channels that meet padded ones": Spec(
        361, (Step("pad_channels", 1, 19, 0), Step("residual", 0, 15, 0))
    ),
    "half of the channels fold the batch": Spec(
        107, (Step("group_norm", 0, 0, 4), Step("hard_coded", 0, 29, 0))
    ),
    "parts of a constant size swap": Spec(
        321,
        (Step("concat", 3, 29, 0), Step("where", 2, 27, 0), Step("hard_coded", 0, 55, 7)),
    ),
    "num_features without a tensor": Spec(
        71, (Step("instance_norm", 2, 41, 0), Step("parts", 0, 1, 0))
    ),
    "the channels that a cut swaps are dead": Spec(
        474,
        (
            Step("clamp", 4, 9, 3),
            Step("concat", 0, 2, 0),
            Step("instance_norm", 1, 48, 0),
            Step("residual", 3, 21, 0),
            Step("hard_coded", 0, 5, 10),
        ),
    ),
    "squeeze meets a single channel": Spec(184, (Step("squeeze", 0, 3, 9),)),
}
"""Found by the slow suite."""
Inputs = tuple[Tensor, ...]


@pytest.fixture(scope="module", autouse=True)
def native_convolutions() -> Iterator[None]:
    """Without oneDNN.

    Of a 1x1 convolution with stride 2 that reads a few channels, laid out channels last, it
    writes the gradient beyond the end of its memory (torch 2.13).
    """
    before = torch.backends.mkldnn.set_flags(False)
    yield
    torch.backends.mkldnn.set_flags(before[0])


@pytest.fixture(autouse=True)
def quiet_export(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Without the hundreds of lines that torch.export logs, which pytest shows for failures."""
    with caplog.at_level(logging.WARNING, logger="torch.__trace"):
        yield


# --- what must hold for every network


@dataclass(frozen=True)
class Outcome:
    """Groups of a network, how many can be pruned, and how many cuts changed the outputs."""

    groups: int
    prunable: int
    cuts: int
    changes: int


def check(spec: Spec) -> Outcome:
    """Raises when anything that is promised for every network does not hold for this one."""
    model, inputs = build(spec)
    before = {name: held.clone() for name, held in model.state_dict().items()}
    graph = amc.trace(model, inputs)
    assert graph.macs() == counted_macs(model, inputs), "MACs of the network as given"
    assert graph.params() == parameters(model), "parameters of the network as given"
    plans = some_plans(graph, spec.seed)
    changes = sum(check_cut(model, inputs, graph, *plan) for plan in plans.items())
    after = model.state_dict()
    assert before.keys() == after.keys(), "the given network has other tensors"
    for name, held in before.items():
        assert torch.equal(held, after[name]), f"{name} of the given network was changed"
    assert not any(m.training for m in model.modules()), "the given network is in training mode"
    cuts = len(plans) if graph.decisions else 0
    return Outcome(len(graph.groups), len(graph.decisions), cuts, changes)


def some_plans(graph: amc.ChannelGraph, seed: int) -> dict[str, amc.Plan]:
    """Within a budget, at random, equally many, and as few channels as each group may keep."""
    if not graph.decisions:
        return {"nothing to prune": graph.plan({})}
    rng = np.random.default_rng(seed)
    fewest = {g.name: rng.permutation(g.size)[: g.bounds[0]] for g in graph.decisions}
    loose = {
        g.name: rng.permutation(g.size)[: rng.integers(*g.bounds, endpoint=True)]
        for g in graph.decisions
    }
    alike = int(rng.integers(2, 9))
    equal = {
        g.name: rng.permutation(g.size)[: min(max(alike, g.bounds[0]), g.bounds[1])]
        for g in graph.decisions
    }
    return {
        "within a budget": feasible_plan(graph, (0.3, 0.5, 0.7)[seed % 3], seed),
        "random channels": graph.plan(loose),
        "equally many channels": graph.plan(equal),
        "fewest channels": graph.plan(fewest),
    }


def feasible_plan(graph: amc.ChannelGraph, ratio: float, seed: int) -> amc.Plan:
    """A random plan for that part of the MACs, or for the nearest that can be reached."""
    try:
        return amc.random_plan(graph, ratio, seed)
    except amc.InfeasibleBudgetError as error:
        nearest = re.search(r"nearest feasible value is ([\d.e-]+) ", str(error))
        assert nearest, f"the message names no feasible value: {error}"
        return amc.random_plan(graph, float(nearest.group(1)), seed)


def check_cut(
    model: Network, inputs: Inputs, graph: amc.ChannelGraph, name: str, plan: amc.Plan
) -> bool:
    """Checks one plan; returns whether it changed the outputs."""
    smaller, masked = amc.shrink(model, plan), amc.mask(model, plan)
    for batch in (len(inputs[0]), 3):
        fresh = fresh_inputs(inputs, batch)
        assert (how := apart(smaller, masked, fresh)) is None, f"{name}: cut and mask: {how}"
    assert counted_macs(smaller, inputs) == graph.macs(plan), f"{name}: MACs"
    assert parameters(smaller) == graph.params(plan), f"{name}: parameters"
    for one, other in zip(smaller.modules(), model.modules(), strict=True):
        held = vars(other).get("bystander")
        assert vars(one).get("bystander") == held, f"{name}: an attribute that is no size"
    check_copies(smaller, fresh)
    check_training(copy.deepcopy(smaller), fresh)
    return bool(plan.cuts) and apart(smaller, model, fresh, 1e-3) is not None


def apart(
    one: nn.Module, other: nn.Module, inputs: Inputs, tolerance: float = TOLERANCE
) -> str | None:
    """How the outputs of two networks differ; None when they do not.

    Norms of nearly constant maps multiply rounding errors; double precision has the last word.
    """
    found = _apart(one, other, inputs, tolerance)
    if found is None:
        return None
    doubled = (copy.deepcopy(one).double(), copy.deepcopy(other).double())
    return _apart(*doubled, tuple(x.double() for x in inputs), tolerance)


def _apart(one: nn.Module, other: nn.Module, inputs: Inputs, tolerance: float) -> str | None:
    for i, (a, b) in enumerate(zip(outputs(one, inputs), outputs(other, inputs), strict=True)):
        if a.shape != b.shape:
            return f"output {i} has shape {tuple(a.shape)}, not {tuple(b.shape)}"
        scale = max(float(b.abs().max()), 1e-3)
        if not (largest := float((a - b).abs().max())) <= tolerance * scale:
            return f"output {i} differs by {largest:.3g}, at a scale of {scale:.3g}"
    return None


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return list(tree_flatten(model(*inputs))[0])


def fresh_inputs(inputs: Inputs, batch: int) -> Inputs:
    """Other values than those that were traced, the same ones each time."""
    generator = torch.Generator().manual_seed(batch)
    return tuple(torch.randn(batch, *x.shape[1:], generator=generator) for x in inputs)


def counted_macs(model: nn.Module, inputs: Inputs) -> int:
    with counting() as counter:
        outputs(model, inputs)
    assert counter.get_total_flops() % (2 * len(inputs[0])) == 0
    return counter.get_total_flops() // (2 * len(inputs[0]))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def check_copies(model: nn.Module, inputs: Inputs) -> None:
    """A copy, and a state that was saved and loaded, give the same outputs to the last bit."""
    expected = outputs(model, inputs)
    twin = copy.deepcopy(model)
    assert all(map(torch.equal, outputs(twin, inputs), expected)), "a deepcopy differs"
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    for held in twin.state_dict().values():
        held.zero_()
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert all(map(torch.equal, outputs(twin, inputs), expected)), "a loaded state differs"


def check_training(model: nn.Module, inputs: Inputs) -> None:
    """One step of gradient descent."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    loss = torch.stack([y.square().mean() for y in tree_flatten(model(*inputs))[0]]).sum()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients), "a gradient is not finite"
    assert any(bool(g.any()) for g in gradients), "all gradients are zero"
    optimizer.step()
    assert not all(map(torch.equal, before, model.parameters())), "the step changed nothing"
    assert all(bool(y.isfinite().all()) for y in outputs(model.eval(), inputs)), "not finite"


# --- what fails, as small as possible


def failure(spec: Spec) -> str | None:
    """What does not hold for this network, in a line; None when everything does."""
    try:
        check(spec)
    except Exception as error:  # whatever is raised is a failure
        return described(error)
    return None


def described(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if re.search(r"[/\\](amc|tests)[/\\]", f.filename)]
    where = re.split(r"[/\\]", ours[-1].filename)[-1] + f":{ours[-1].lineno}"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__} in {where}: {first}"


def smallest(spec: Spec, fails: Callable[[Spec], str | None]) -> Spec:
    """Deletes steps as long as the network fails without them."""
    i = 0
    while i < len(spec.steps):
        fewer = replace(spec, steps=spec.steps[:i] + spec.steps[i + 1 :])
        spec, i = (fewer, 0) if fails(fewer) else (spec, i + 1)
    return spec


def check_seed(seed: int) -> Outcome:
    """Checks a random network; a failure is reported with the smallest network that fails."""
    spec = random_spec(seed)
    try:
        return check(spec)
    except Exception as error:
        first = described(error)
    fewer = smallest(spec, failure)
    pytest.fail(
        f"seed {seed}: {first}\nsmallest network that fails:\n{fewer!r}\n{failure(fewer)}",
        pytrace=False,
    )


# --- the tests

OUTCOMES: dict[int, Outcome | None] = {}
"""Of the quick suite, for the test that it is not vacuous; None where it failed."""


@pytest.mark.parametrize("seed", QUICK)
def test_random_network(seed: int) -> None:
    OUTCOMES[seed] = None
    OUTCOMES[seed] = check_seed(seed)


@pytest.mark.parametrize("what", FAILED_ONCE)
def test_network_that_failed_once(what: str) -> None:
    check(FAILED_ONCE[what])


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_further_random_network(seed: int) -> None:
    check_seed(seed)


def test_random_networks_can_be_pruned() -> None:
    """Freezing everything would pass as well; so would cuts that change nothing."""
    if len(OUTCOMES) < len(QUICK):
        pytest.skip("only a part of the random networks was checked")
    found = [o for o in OUTCOMES.values() if o]
    assert mean(o.prunable / o.groups for o in found) > 0.45
    assert mean(o.prunable > 0 for o in found) > 0.9
    assert sum(o.changes for o in found) > 0.9 * sum(o.cuts for o in found)


def test_every_kind_of_step_occurs() -> None:
    assert {step.kind for seed in QUICK for step in random_spec(seed).steps} == set(KINDS)


@pytest.mark.parametrize("seed", range(4))
def test_any_steps_make_a_network(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(50):
        spec = random_spec(1000 * seed + number)
        kept = rng.random(len(spec.steps)) < rng.random()
        some = tuple(s for s, keep in zip(spec.steps, kept, strict=True) if keep)
        model, inputs = build(replace(spec, steps=some))
        assert all(bool(y.isfinite().all()) for y in outputs(model, inputs))


def test_the_same_spec_is_the_same_network() -> None:
    assert random_spec(5) == random_spec(5) != random_spec(6)
    (one, a), (other, b) = build(random_spec(5)), build(random_spec(5))
    assert all(map(torch.equal, a, b))
    assert all(map(torch.equal, outputs(one, a), outputs(other, a)))


def test_spec_is_printed_as_python() -> None:
    for spec in (random_spec(1), Spec(3, (Step("conv", 1, 2, 3),)), Spec(4)):
        assert eval(repr(spec)) == spec
    assert repr(Spec(3, (Step("conv", 1, 2, 3),))) == (
        'Spec(seed=3, steps=(Step("conv", 1, 2, 3),))'
    )


def test_smallest_keeps_what_the_failure_needs() -> None:
    def fails(spec: Spec) -> str | None:
        return "both" if {"pool", "scale"} <= {s.kind for s in spec.steps} else None

    wanted = (Step("scale", 1, 2, 3), Step("pool", 3, 2, 1))
    others = random_spec(0).steps
    spec = Spec(7, (*others[:3], wanted[0], *others[3:], wanted[1]))
    others = tuple(s for s in spec.steps if s.kind not in ("pool", "scale") or s in wanted)
    assert smallest(replace(spec, steps=others), fails) == Spec(7, wanted)


def test_failing_network_is_reported_as_small_as_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(spec: Spec) -> Any:
        kinds = [s.kind for s in spec.steps]
        assert "conv" not in kinds, f"{len(kinds)} steps"

    spec = Spec(11, (Step("pool"), Step("conv", 1), Step("scale")))
    monkeypatch.setitem(globals(), "random_spec", lambda seed: spec)
    monkeypatch.setitem(globals(), "check", broken)
    with pytest.raises(pytest.fail.Exception) as caught:
        check_seed(11)
    message = str(caught.value)
    assert "seed 11: AssertionError in test_random_networks.py" in message and "3 steps" in message
    assert 'Spec(seed=11, steps=(Step("conv", 1, 0, 0),))' in message and "1 steps" in message
