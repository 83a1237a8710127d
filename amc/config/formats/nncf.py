"""NNCF's JSON: ``compression`` with ``filter_pruning``, sparsity or both, and what it is here.

Source: the configuration schema of NNCF 2.14, in which filter pruning and sparsity still were, and
its documented examples. Entries of sparsity: `nncf_sparsity`. Levels are parts that go
(`conversions`). A filter level with ``all_weights`` off is one ratio for all groups; with it, a
ranking of all filters to that many filters in all. A FLOPs level is one of the MACs. A step of a
schedule is an epoch.
"""

import json
from collections.abc import Mapping
from typing import Any

from amc.config.formats import nncf_sparsity
from amc.config.formats.conversions import (
    preserve_ratio_of_pruning_level,
    pruning_level_of_preserve_ratio,
)
from amc.config.formats.nncf_entries import (
    MAGNITUDE,
    PRUNING,
    READ,
    adaptation,
    entries,
    initializer,
    named_layers,
    root,
    scopes_of,
)
from amc.config.formats.source import Either, Entries, Reading, Source
from amc.config.sections.recovery import TrainingConfig
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError

ENTRY = (
    "algorithm", "params", "pruning_init", "all_weights", "initializer", "ignored_scopes",
    "target_scopes", "validate_scopes",
)  # fmt: skip
PARAMS = (
    "schedule", "pruning_init", "pruning_target", "pruning_flops_target", "pruning_steps",
    "num_init_steps", "filter_importance", "all_weights", "interlayer_ranking_type", "legr_params",
    "save_ranking_coeffs_path", "load_ranking_coeffs_path", "prune_first_conv",
    "prune_downsample_convs", "prune_batch_norms", "initializer",
)  # fmt: skip
FIXED = {"population_size": 64.0, "num_samples": 16.0, "mutate_percent": 0.1, "scale_sigma": 1.0}
"""Of LeGR's evolution, as in the paper; other values are refused."""
LEGR = ("generations", "train_steps", "max_pruning", "random_seed", *FIXED)
METRICS = {"L1": "l1", "L2": "l2", "geometric_median": "geometric_median"}
SCHEDULES = {
    "exponential": "exponential", "exponential_with_bias": "exponential-bias",
    "baseline": "baseline",
}  # fmt: skip
LEARNED, UNWEIGHTED = "learned_ranking", "unweighted_ranking"

SAYS = "NNCF's filter pruning knows --mode uniform, --allocator ranking and --allocator legr"


def read(source: Source, content: Any) -> Reading:
    """The settings that a configuration stands for, or an entry of its ``compression`` alone.

    Raises:
        AmcError: a field is unknown or wrong, or asks for what is not done here.
    """
    notes = list[str]()
    content = {"compression": content} if "algorithm" in content else content
    top = root(source, content, notes)
    _check_input(source, content.get("input_info", {}))
    pruned, sparse = entries(source, content.get("compression"), notes)
    settings, overrules = dict[str, Any](), dict[str, tuple[str, ...]]()
    scoped, adapting = list[Entries](), list[Entries]()
    if pruned:
        own = Entries(source, pruned, PRUNING, ENTRY)
        params = Entries(source, pruned.get("params", {}), "params", PARAMS)
        both = Either(source, own, params)
        settings = _pruning(source, both, own, params, notes)
        overrules["finetune_epochs"] = ("schedule_steps", "schedule_delay")
        scoped, adapting = [own], [both.place("initializer")]
    if sparse:
        own = nncf_sparsity.fields_of(source, sparse)
        found = nncf_sparsity.read(source, own, sparse["algorithm"], top, notes)
        scoped, adapting = [*scoped, own], [*adapting, own]
        settings = _joined(settings, found, notes) if pruned else found
        overrules = nncf_sparsity.overrules(found)
    else:
        notes += [f"{name}: not used, it is of sparsity" for name in READ if name in top]
    if not all(one.get("validate_scopes", bool, True) for one in scoped):
        notes.append("validate_scopes false: a scope that matches nothing is a mistake here")
    usual = bool(pruned) or sparse["algorithm"] == MAGNITUDE
    settings |= named_layers(source, scoped, top) | adaptation(source, adapting, usual)
    return Reading(settings, tuple(notes), overrules)


def write(config: TrainConfig) -> str:
    """The configuration as NNCF writes it.

    Raises:
        AmcError: a setting that NNCF has no word for.
    """
    flat, found = config.flat, list[dict[str, Any]]()
    if config.cuts:
        found.append(_written_pruning(config))
    if config.zeros:
        found.append(nncf_sparsity.write(config))
    for entry in found:
        adapts = entry["algorithm"] in (PRUNING, MAGNITUDE)
        entry |= scopes_of(flat) | (initializer(flat) if adapts else {})
    length = {"epochs": flat["finetune_epochs"]} if config.zeros else {}
    compression = found[0] if len(found) == 1 else found
    return json.dumps({**length, "compression": compression}, indent=2) + "\n"


def _check_input(source: Source, given: Any) -> None:
    """The shape is that of the data; only its form is looked at."""
    for one in given if isinstance(given, list) else [given]:
        known = ("sample_size", "filler", "type", "keyword")
        Entries(source, one, "input_info", known).get("sample_size", list, [])


def _joined(pruned: dict[str, Any], sparse: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Channels that go first, and at once; weights that become zero in what is left."""
    left = {k: v for k, v in pruned.items() if not k.startswith("schedule")}
    if left != pruned:
        notes.append(f"schedule of {PRUNING}: channels go at once, before weights become zero")
    metric = f"{pruned['metric']},{sparse['metric']}"
    return {**left, **sparse, "target": "channels,weights", "metric": metric}


def _pruning(
    source: Source, both: Either, own: Entries, params: Entries, notes: list[str]
) -> dict[str, Any]:
    """The settings of an entry of filter pruning, without scopes and batch norm."""
    learned = params.one_of("interlayer_ranking_type", UNWEIGHTED, (UNWEIGHTED, LEARNED))
    ranked = both.get("all_weights", bool, learned == LEARNED)
    if learned == LEARNED and not ranked:
        raise AmcError(f"{source.place('all_weights')}: {LEARNED} ranks all_weights, got false")
    settings = {
        "metric": METRICS[params.one_of("filter_importance", "L2", METRICS)],
        "prune_first_conv": params.get("prune_first_conv", bool, learned == LEARNED),
        "prune_downsample": params.get("prune_downsample_convs", bool, learned == LEARNED),
        **_target(source, params, ranked),
        **_schedule(both, params),
    }
    legr = Entries(source, params.get("legr_params", dict, {}), "legr_params", LEGR)
    if learned == LEARNED:
        settings |= {"allocator": "legr", **_legr(source, params, legr)}
    elif "legr_params" in params:
        notes.append(f"legr_params: not used, interlayer_ranking_type is {UNWEIGHTED}")
    if not params.get("prune_batch_norms", bool, True):
        notes.append("prune_batch_norms false: channels are removed here, with their batch norm")
    if "save_ranking_coeffs_path" in params:
        notes.append("save_ranking_coeffs_path: a run leaves them in its folder, ranking.json")
    return settings


def _written_pruning(config: TrainConfig) -> dict[str, Any]:
    flat, metric = config.flat, config.reconstruction.of_channels
    params = {**_written_target(flat), **_written_schedule(flat)}
    names = {ours: theirs for theirs, ours in METRICS.items()}
    if metric not in names:
        raise AmcError(f"--metric {metric}: NNCF has {', '.join(names)}")
    params["filter_importance"] = names[metric]
    params["prune_first_conv"] = flat["prune_first_conv"]
    params["prune_downsample_convs"] = flat["prune_downsample"]
    first = params.pop("pruning_init", 0.0)
    return {"algorithm": PRUNING, "pruning_init": first, "params": params}


def _target(source: Source, params: Entries, ranked: bool) -> dict[str, Any]:
    """The part that stays, of what, and who shares it out."""
    if "pruning_target" in params and "pruning_flops_target" in params:
        where = source.place("pruning_flops_target")
        raise AmcError(f"{where}: give pruning_target (filters) or pruning_flops_target (FLOPs)")
    of_flops = "pruning_flops_target" in params
    name = "pruning_flops_target" if of_flops else "pruning_target"
    ratio = preserve_ratio_of_pruning_level(params.number(name, 0.5, 0, 1))
    if not ranked:
        return {"mode": "uniform", "preserve_ratio" if of_flops else "channel_ratio": ratio}
    objective = "macs" if of_flops else "filters"
    by_channels = {"allocator": "ranking", "channel_multiple": 1}
    return {"objective": objective, "preserve_ratio": ratio, **by_channels}


def _written_target(flat: Mapping[str, Any]) -> dict[str, Any]:
    level = pruning_level_of_preserve_ratio(flat["preserve_ratio"])
    if flat["mode"] not in ("auto", "uniform"):
        raise AmcError(f"--mode {flat['mode']}: {SAYS}")
    if "uniform" in (flat["mode"], flat["allocator"]):
        if flat["channel_ratio"] is not None:
            filters = pruning_level_of_preserve_ratio(flat["channel_ratio"])
            return {"all_weights": False, "pruning_target": filters}
        if flat["objective"] != "macs":
            raise AmcError(f"--objective {flat['objective']}: of --mode uniform NNCF has macs")
        return {"all_weights": False, "pruning_flops_target": level}
    if flat["allocator"] not in ("ranking", "legr"):
        raise AmcError(f"--allocator {flat['allocator']}: {SAYS}")
    targets = {"macs": "pruning_flops_target", "filters": "pruning_target"}
    if flat["objective"] not in targets:
        raise AmcError(f"--objective {flat['objective']}: NNCF has macs and filters")
    found = {"all_weights": True, targets[flat["objective"]]: level}
    if flat["allocator"] == "ranking":
        return found
    steps = flat["reward_steps"] if flat["regime"] == "finetune" else 0
    legr = {
        "generations": flat["episodes"],
        "train_steps": steps,
        "max_pruning": pruning_level_of_preserve_ratio(flat["min_ratio"]),
        "random_seed": flat["seed"],
    }
    path = flat["ranking"]
    known = {} if path is None else {"load_ranking_coeffs_path": str(path)}
    return {**found, **known, "interlayer_ranking_type": LEARNED, "legr_params": legr}


def _schedule(both: Either, params: Entries) -> dict[str, Any]:
    name = params.one_of("schedule", "exponential", SCHEDULES)
    level = both.place("pruning_init").number("pruning_init", 0.0, 0, 1)
    steps = params.count("pruning_steps", 100, 1)
    delay = params.count("num_init_steps", 0, 0)
    if name == "baseline":
        after = TrainingConfig().finetune_epochs  # NNCF does not say how many follow
        late = {"schedule": "baseline", "schedule_delay": delay, "finetune_epochs": delay + after}
        return late if delay else {}
    settings = {"schedule": SCHEDULES[name], "schedule_steps": steps, "schedule_delay": delay}
    first = {"schedule_init": level} if level else {}
    return {**settings, **first, "finetune_epochs": delay + steps}


def _written_schedule(flat: Mapping[str, Any]) -> dict[str, Any]:
    names = {"one-shot": "baseline", **{ours: theirs for theirs, ours in SCHEDULES.items()}}
    if flat["group_size"] or flat["schedule"] not in names:
        word = "--group-size" if flat["group_size"] else f"--schedule {flat['schedule']}"
        raise AmcError(f"{word}: NNCF has {', '.join(names)}")
    delay = {"num_init_steps": flat["schedule_delay"]}
    if names[flat["schedule"]] == "baseline":
        return {"schedule": "baseline", **delay}
    return {
        "schedule": names[flat["schedule"]],
        "pruning_steps": flat["schedule_steps"],
        "pruning_init": flat["schedule_init"] or 0.0,
        **delay,
    }


def _legr(source: Source, params: Entries, given: Entries) -> dict[str, Any]:
    steps = given.count("train_steps", 200, 0)
    found: dict[str, Any] = {
        "episodes": given.count("generations", 400, 1),
        "seed": given.count("random_seed", 42, 0),
        **({"regime": "finetune", "reward_steps": steps} if steps else {"regime": "calibrate"}),
    }
    if "max_pruning" in given:
        most = given.number("max_pruning", 0.8, 0, 1)
        found["min_ratio"] = preserve_ratio_of_pruning_level(most)
    if "load_ranking_coeffs_path" in params:
        found["ranking"] = source.beside(params.get("load_ranking_coeffs_path", str, ""))
    for name, usual in FIXED.items():
        if given.get(name, float, usual) != usual:
            raise given.wrong(name, f"is always {usual:g} here")
    return found
