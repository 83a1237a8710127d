"""PocketFlow's channel pruning: ``ratio.list``, and its options in a file of flags.

The options are those of ``ChannelPrunedLearner`` (Tencent/PocketFlow, learners/channel_pruning),
one or several in a line, as ``--cp_prune_option=auto``; ``#`` begins a comment. An option that is
not there has PocketFlow's default. Its preserve ratios are parts that stay, as ours are: of the
FLOPs with ``auto``, of the channels with ``uniform``. Its distillation has no factor temperature
squared.
"""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc.config.formats.source import Reading, Source
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError

DEFAULTS: dict[str, Any] = {
    "learner": "channel",
    "cp_prune_option": "auto",
    "cp_uniform_preserve_ratio": 0.6,
    "cp_preserve_ratio": 0.5,
    "cp_prune_list_file": "ratio.list",
    "cp_nb_rlouts_min": 50,
    "cp_nb_rlouts": 200,
    "cp_nb_points_per_layer": 10,
    "cp_nb_batches": 60,
    "cp_quadruple": False,
    "enbl_dst": False,
    "loss_w_dst": 4.0,
    "tempr_dst": 4.0,
    "cp_finetune": False,
    "cp_list_group": 1000,
    "cp_nb_iters_ft_ratio": 0.2,
    "cp_lrn_rate_ft": 1e-4,
    "cp_lasso": True,
    "cp_reward_policy": "accuracy",
    "cp_noise_tolerance": 0.15,
}
"""Options and their defaults; ``cp_nb_batches`` as documented (the code has 30)."""

ALL_AT_ONCE = 1000
"""``cp_list_group`` from which all layers are one group."""

WORDS = {
    "learner": ("channel",),
    "cp_prune_option": ("auto", "uniform", "list"),
    "cp_reward_policy": ("accuracy", "flops"),
}
TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
REWARDS = {"accuracy": "accuracy", "flops": "accuracy_flops"}
METRICS = {True: "lasso", False: "l1"}
MULTIPLES = {True: 4, False: 1}


def read_list(source: Source) -> Reading:
    """A list of ratios, which the graph is asked about later."""
    return Reading({"mode": "list", "strategy": source.path})


def read(source: Source) -> Reading:
    """The settings that a file of flags stands for.

    Raises:
        AmcError: an option is unknown, or its value is not allowed.
    """
    given = _options(source)
    option = {**DEFAULTS, **given}
    settings: dict[str, Any] = {
        "points_per_layer": option["cp_nb_points_per_layer"],
        "calibration_batches": option["cp_nb_batches"],
        "channel_multiple": MULTIPLES[option["cp_quadruple"]],
        "metric": METRICS[option["cp_lasso"]],
        "distill": option["enbl_dst"],
    }
    if option["enbl_dst"]:
        temperature = option["tempr_dst"]
        if temperature <= 0:
            where = source.place("tempr_dst")
            raise AmcError(f"{where}: --tempr_dst must be above 0, got {temperature:g}")
        settings["temperature"] = temperature
        settings["distill_weight"] = option["loss_w_dst"] / temperature**2
    if option["cp_list_group"] < ALL_AT_ONCE:
        settings["group_size"] = option["cp_list_group"]
        if option["cp_finetune"]:
            settings["stage_epochs"] = option["cp_nb_iters_ft_ratio"]
            settings["stage_learning_rate"] = option["cp_lrn_rate_ft"]
    notes = []
    if "cp_noise_tolerance" in given:
        notes.append("cp_noise_tolerance: not used here, rewards have no tolerance")
    if "stage_learning_rate" in settings:
        notes.append("cp_lrn_rate_ft: PocketFlow's is Adam's, here it is that of SGD")
    return Reading({**settings, **_allocation(source, option)}, tuple(notes))


def _allocation(source: Source, option: Mapping[str, Any]) -> dict[str, Any]:
    mode = option["cp_prune_option"]
    if mode == "uniform":
        return {"mode": mode, "channel_ratio": option["cp_uniform_preserve_ratio"]}
    if mode == "list":
        return {"mode": mode, "strategy": source.beside(option["cp_prune_list_file"])}
    return {
        "preserve_ratio": option["cp_preserve_ratio"],
        "episodes": option["cp_nb_rlouts"],
        "warmup_episodes": option["cp_nb_rlouts_min"],
        "reward": REWARDS[option["cp_reward_policy"]],
    }


def write(config: TrainConfig) -> str:
    """The settings as options, one a line.

    Raises:
        AmcError: a setting that PocketFlow has no word for.
    """
    flat = config.flat
    if flat["mode"] not in WORDS["cp_prune_option"]:
        allowed = ", ".join(WORDS["cp_prune_option"])
        raise AmcError(f"--mode {flat['mode']}: PocketFlow has {allowed}")
    option = {
        "learner": "channel",
        "cp_prune_option": flat["mode"],
        **_written_allocation(flat),
        "cp_nb_points_per_layer": flat["points_per_layer"],
        "cp_nb_batches": flat["calibration_batches"],
        "cp_quadruple": _turned("channel_multiple", MULTIPLES, flat),
        "cp_lasso": _turned("metric", METRICS, flat),
        "enbl_dst": flat["distill"],
    }
    if flat["distill"]:
        option["tempr_dst"] = flat["temperature"]
        option["loss_w_dst"] = flat["distill_weight"] * flat["temperature"] ** 2
    if flat["group_size"]:
        option["cp_list_group"] = flat["group_size"]
        if flat["stage_epochs"] is not None:
            option["cp_finetune"] = True
            option["cp_nb_iters_ft_ratio"] = flat["stage_epochs"]
            rate = flat["stage_learning_rate"] or flat["learning_rate"]
            option |= {} if rate is None else {"cp_lrn_rate_ft": rate}
    return "".join(f"--{name}={shlex.quote(str(value))}\n" for name, value in option.items())


def _written_allocation(flat: Mapping[str, Any]) -> dict[str, Any]:
    if flat["mode"] == "uniform":
        if flat["channel_ratio"] is None:
            raise AmcError("--mode uniform: PocketFlow's needs --channel-ratio")
        return {"cp_uniform_preserve_ratio": flat["channel_ratio"]}
    if flat["mode"] == "list":
        if Path(flat["strategy"]).suffix == ".json":
            raise AmcError(f"--strategy {flat['strategy']}: PocketFlow's lists are no JSON")
        return {"cp_prune_list_file": flat["strategy"]}
    if flat.get("allocator", "ddpg") != "ddpg":
        raise AmcError(f"--allocator {flat['allocator']}: PocketFlow has ddpg")
    return {
        "cp_preserve_ratio": flat["preserve_ratio"],
        "cp_nb_rlouts": flat["episodes"],
        "cp_nb_rlouts_min": flat["warmup_episodes"],
        "cp_reward_policy": _turned("reward", REWARDS, flat),
    }


def _turned(setting: str, table: Mapping[Any, Any], flat: Mapping[str, Any]) -> Any:
    """The key of a setting's value.

    Raises:
        AmcError: the table does not hold it.
    """
    for theirs, ours in table.items():
        if flat[setting] == ours:
            return theirs
    flag = "--" + setting.replace("_", "-")
    allowed = ", ".join(map(str, table.values()))
    raise AmcError(f"{flag} {flat[setting]}: PocketFlow has {allowed}")


def _options(source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, line in enumerate(source.text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise AmcError(f"{source.path}:{number}: {error}") from None
        while words:
            name, equals, value = words.pop(0).lstrip("-").partition("=")
            if name.startswith("no") and name[2:] in DEFAULTS and not equals:
                name, value = name[2:], "false"
            if name not in DEFAULTS:
                raise source.unknown(name, DEFAULTS, "option")
            if name in found:
                raise AmcError(f"{source.path}:{number}: --{name} is given twice")
            if not equals and not value:
                value = words.pop(0) if words and not words[0].startswith("-") else "true"
            found[name] = _value(f"{source.path}:{number}", name, value)
    return found


def _value(where: str, name: str, word: str) -> Any:
    kind = type(DEFAULTS[name])
    if kind is bool and word.lower() in TRUTH:
        return TRUTH[word.lower()]
    if kind is str and word in WORDS.get(name, (word,)):
        return word
    try:
        if kind is int and int(word) >= 0:
            return int(word)
        if kind is float and math.isfinite(float(word)):
            return float(word)
    except ValueError:
        pass
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    wanted = ", ".join(WORDS.get(name, ())) or kinds.get(kind, "text")
    raise AmcError(f"{where}: --{name} must be {wanted}, got {word!r}")
