"""NNCF's entries of sparsity: ``rb_sparsity``, ``magnitude_sparsity``, ``const_sparsity``.

Source: the configuration schema of NNCF 2.14, its documentation on sparsity, and the names that
earlier versions had (`OLD`). A level is the part of the weights that is zero, here and there.
Epochs count from 0: the level of an epoch holds from its beginning. What a schedule does not use
is said and left out, as NNCF leaves it out; so is what `multistep` overrides.
"""

import math
from collections.abc import Mapping
from typing import Any

from amc.config.formats.nncf_entries import CONST, MAGNITUDE, RB
from amc.config.formats.source import Either, Entries, Source
from amc.config.sections.sparsity import (
    ADAPTIVE,
    EXPONENTIAL,
    MULTISTEP,
    POLYNOMIAL,
    SparsityConfig,
)
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError

ENTRY = ("algorithm", "ignored_scopes", "target_scopes", "validate_scopes")
TRAINED = ("params", "sparsity_init", "initializer", "compression_lr_multiplier")
"""Fields that a constant mask does not have."""
PARAMS = (
    "schedule", "sparsity_target", "sparsity_target_epoch", "sparsity_freeze_epoch", "patience",
    "power", "concave", "update_per_optimizer_step", "steps_per_epoch", "multistep_steps",
    "multistep_sparsity_levels", "sparsity_level_setting_mode",
)  # fmt: skip
OLD = {
    "sparsity_steps": "sparsity_target_epoch", "sparsity_training_steps": "sparsity_freeze_epoch",
    "steps": "multistep_steps", "sparsity_levels": "multistep_sparsity_levels",
}  # fmt: skip
"""Names of NNCF's first versions, and what they are now."""

SCHEDULES = (POLYNOMIAL, EXPONENTIAL, ADAPTIVE, MULTISTEP)
USUAL = {RB: EXPONENTIAL, MAGNITUDE: POLYNOMIAL}
METRICS = {"normed_abs": "normed_magnitude", "abs": "magnitude"}
MODES = {"global": "global", "local": "uniform"}

USERS = {
    "power": (POLYNOMIAL,), "concave": (POLYNOMIAL,), "patience": (ADAPTIVE,),
    "multistep_steps": (MULTISTEP,), "multistep_sparsity_levels": (MULTISTEP,),
    "sparsity_target_epoch": (POLYNOMIAL, EXPONENTIAL),
    "update_per_optimizer_step": (POLYNOMIAL, EXPONENTIAL),
    "sparsity_target": (POLYNOMIAL, EXPONENTIAL, ADAPTIVE),
}  # fmt: skip
"""Fields of one schedule or some, and whose they are."""

TARGET, TARGET_EPOCH, FREEZE_EPOCH = 0.5, 90.0, 100.0
RATE = 1e-3
"""Of Adam for weights and masks, in all of NNCF's experiments."""
STEPS, LEVELS = (90.0,), (0.1, 0.5)
"""What NNCF takes where nothing is said."""

SAYS = "NNCF has --metric magnitude, normed_magnitude, rb and const, of single weights"


def fields_of(source: Source, entry: dict[str, Any]) -> Entries:
    """The fields of an entry.

    Raises:
        AmcError: one is unknown.
    """
    name = entry["algorithm"]
    return Entries(source, entry, name, ENTRY if name == CONST else (*ENTRY, *TRAINED))


def read(
    source: Source, own: Entries, name: str, top: Entries, notes: list[str]
) -> dict[str, Any]:
    """The settings of an entry, without scopes and batch norm.

    Args:
        source: the file.
        own: fields of the entry.
        name: of its algorithm.
        top: fields at the root; ``epochs`` is the length of the whole training. Without, it is
            one epoch longer than masks change.
        notes: what is left out is added.

    Raises:
        AmcError: a field is unknown or wrong.
    """
    length = {"finetune_epochs": top.count("epochs", 0, 0)} if "epochs" in top else {}
    if name == CONST:
        return {"target": "weights", "metric": "const", **length}
    given = _renamed(source, own.get("params", dict, {}), notes)
    known = (*PARAMS, "sparsity_init", *(("weight_importance",) if name == MAGNITUDE else ()))
    params = Entries(source, given, "params", known)
    schedule = params.one_of("schedule", USUAL[name], SCHEDULES)
    notes += [
        f"{field}: not used, schedule is {schedule}"
        for field, users in USERS.items()
        if field in params and schedule not in users
    ]
    if params.get("steps_per_epoch", float, 0.0):
        notes.append("steps_per_epoch: not used, it is known here")
    shared = params.one_of("sparsity_level_setting_mode", "global", MODES)
    if name == RB and shared != "global":
        raise params.wrong(
            "sparsity_level_setting_mode", f"must be global, {RB} learns the level of each layer"
        )
    freeze = params.number("sparsity_freeze_epoch", FREEZE_EPOCH, 0, math.inf)
    return {
        "target": "weights",
        "metric": "rb" if name == RB else _importance(params),
        "sparsity_schedule": schedule,
        "sparsity_allocation": MODES[shared],
        "sparsity_freeze_epoch": freeze,
        "finetune_epochs": math.floor(freeze) + 1,
        **_rate(own if "compression_lr_multiplier" in own else top, name, notes),
        **_levels(Either(source, own, params), params, schedule, notes),
        **_curve(params, schedule),
        **length,
    }


def overrules(settings: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Flags -> settings of an entry that mean nothing beside them."""
    epochs = "sparsity_target_epoch", "sparsity_freeze_epoch"
    levels = "sparsity_schedule", "sparsity_steps", "sparsity_levels"
    stepped = settings.get("sparsity_schedule") == MULTISTEP
    return {"finetune_epochs": epochs, "sparsity": levels if stepped else ()}


def _renamed(source: Source, given: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Parameters by the names that they have now."""
    found = dict[str, Any]()
    for name, value in given.items():
        now = OLD.get(name, name)
        if now != name and now in given:
            raise AmcError(f"{source.place(name)}: {name} is the old name of {now}, give one")
        if now != name:
            notes.append(f"{name}: read as {now}, its name today")
        found[now] = value
    return found


def _importance(params: Entries) -> str:
    return METRICS[params.one_of("weight_importance", "normed_abs", METRICS)]


def _rate(place: Entries, name: str, notes: list[str]) -> dict[str, Any]:
    """NNCF multiplies gradients of the masks; to Adam, that trains them here, only a rate is."""
    field = "compression_lr_multiplier"
    if field not in place:
        return {}
    times = place.number(field, 1.0, 0, math.inf)
    if name != RB:
        notes.append(f"{field}: not used, {name} trains no masks")
        return {}
    if not times:
        raise place.wrong(field, "must be above 0")
    return {"sparsity_rate": RATE * times}


def _levels(both: Either, params: Entries, schedule: str, notes: list[str]) -> dict[str, Any]:
    """Where levels begin and end."""
    first = both.place("sparsity_init").number("sparsity_init", 0.0, 0, 1)
    if schedule != MULTISTEP:
        start = {"sparsity_init": first} if first else {}
        return {"sparsity": params.number("sparsity_target", TARGET, 0, 1), **start}
    levels = params.numbers("multistep_sparsity_levels", LEVELS, 0, 1)
    steps = params.numbers("multistep_steps", STEPS, 0, math.inf)
    if len(levels) != len(steps) + 1:
        said = [n for n in ("multistep_sparsity_levels", "multistep_steps") if n in params]
        wanted = f"{len(steps)} steps {len(steps) + 1} levels"
        raise params.wrong(said[0], f"needs one level more than steps, {wanted}")
    if any(step != int(step) for step in steps):
        raise params.wrong("multistep_steps", "must be whole numbers")
    if first:
        notes.append(f"sparsity_init: not used, multistep begins at {levels[0]:g}")
    whole = tuple(sorted(map(int, steps)))
    return {"sparsity": levels[-1], "sparsity_steps": whole, "sparsity_levels": levels}


def _curve(params: Entries, schedule: str) -> dict[str, Any]:
    """The way between them."""
    if schedule == ADAPTIVE:
        return {"sparsity_patience": params.count("patience", 1, 1)}
    if schedule == MULTISTEP:
        return {}
    found = {
        "sparsity_target_epoch": params.number("sparsity_target_epoch", TARGET_EPOCH, 0, math.inf),
        "sparsity_per_step": params.get("update_per_optimizer_step", bool, False),
    }
    if schedule == POLYNOMIAL:
        usual = SparsityConfig.sparsity_power
        found["sparsity_power"] = params.number("power", usual, 0, math.inf)
        found["sparsity_convex"] = not params.get("concave", bool, True)
    return found


def settled(config: TrainConfig) -> TrainConfig:
    """The same run with the schedule and the epochs said that follow from other settings."""
    metric, sparsity = config.reconstruction.of_weights, config.sparsity
    schedule = sparsity.schedule_for(metric) if config.zeros else ""
    if schedule not in SCHEDULES:
        return config
    target, freeze = sparsity.epochs_for(schedule, config.training.finetune_epochs)
    epochs = {"sparsity_freeze_epoch": freeze}
    if schedule in USERS["sparsity_target_epoch"]:
        epochs["sparsity_target_epoch"] = target
    return config.but(sparsity_schedule=schedule, **epochs)


def write(config: TrainConfig) -> dict[str, Any]:
    """The entry of a run, without scopes and batch norm.

    Raises:
        AmcError: a setting that NNCF has no word for.
    """
    metric, sparsity = config.reconstruction.of_weights, settled(config).sparsity
    if config.zeros != "weights":
        raise AmcError(f"--target {config.restrictions.target}: NNCF zeroes single weights")
    if metric == "const":
        return {"algorithm": CONST}
    names = {"rb": "", **{ours: theirs for theirs, ours in METRICS.items()}}
    if metric not in names:
        raise AmcError(f"--metric {metric}: of weights NNCF has {', '.join(names)}, const")
    modes = {ours: theirs for theirs, ours in MODES.items()}
    if sparsity.sparsity_allocation not in modes:
        given = sparsity.sparsity_allocation
        raise AmcError(f"--sparsity-allocation {given}: NNCF has {', '.join(modes)}")
    if sparsity.sparsity_schedule not in SCHEDULES:
        word = sparsity.sparsity_schedule
        raise AmcError(f"--sparsity-schedule {word}: NNCF has {', '.join(SCHEDULES)}")
    entry: dict[str, Any] = {"algorithm": RB if metric == "rb" else MAGNITUDE}
    if sparsity.sparsity_schedule != MULTISTEP:
        entry["sparsity_init"] = sparsity.sparsity_init
    if sparsity.sparsity_rate is not None:
        entry["compression_lr_multiplier"] = sparsity.sparsity_rate / RATE
    params = {
        "schedule": sparsity.sparsity_schedule,
        "sparsity_level_setting_mode": modes[sparsity.sparsity_allocation],
        **({"weight_importance": names[metric]} if names[metric] else {}),
        "sparsity_freeze_epoch": sparsity.sparsity_freeze_epoch,
        **_written_schedule(sparsity),
    }
    return {**entry, "params": params}


def _written_schedule(sparsity: SparsityConfig) -> Mapping[str, Any]:
    schedule = sparsity.sparsity_schedule
    if schedule == MULTISTEP:
        return {
            "multistep_steps": list(sparsity.sparsity_steps),
            "multistep_sparsity_levels": list(sparsity.sparsity_levels),
        }
    target = {"sparsity_target": sparsity.sparsity}
    if schedule == ADAPTIVE:
        return {**target, "patience": sparsity.sparsity_patience}
    found = {
        **target,
        "sparsity_target_epoch": sparsity.sparsity_target_epoch,
        "update_per_optimizer_step": sparsity.sparsity_per_step,
    }
    if schedule == EXPONENTIAL:
        return found
    return {**found, "power": sparsity.sparsity_power, "concave": not sparsity.sparsity_convex}
