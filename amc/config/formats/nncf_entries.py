"""What NNCF's algorithms share: the list ``compression``, scopes, and batch norm.

A scope such as ``ResNet/Sequential[layer1]/BasicBlock[0]/NNCFConv2d[conv1]/conv2d_0`` names the
modules on the way to a layer: ``layer1.0.conv1``. One that ends at a module which is no layer
means all layers inside: ``layer1.*``. Behind ``{re}`` stands a regular expression; it is looked
for in the dotted name of a layer and in its scope.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from amc.config.formats.source import Entries, Source
from amc.runtime.errors import AmcError
from amc.runtime.wording import suggestion

PRUNING = "filter_pruning"
RB, MAGNITUDE, CONST = SPARSITY = ("rb_sparsity", "magnitude_sparsity", "const_sparsity")
BESIDE = {
    "quantization": "not done here; --export int8 writes the network in 8 bits",
    "knowledge_distillation": "not read; --distill, the default, does it",
}
"""Algorithms that may be listed beside those, and what is said of them."""

TOP = ("input_info", "compression", "ignored_scopes", "target_scopes")
READ = ("epochs", "compression_lr_multiplier")
"""Further fields at the root that count for sparsity; the first one is of training scripts."""
MORE = ("target_device", "accuracy_aware_training", "disable_shape_matching", "log_dir")
"""Fields of NNCF's at the root that mean nothing here."""

FIELDS = {"exclude": "ignored_scopes", "include": "target_scopes"}
"""Settings that name layers, and what they are called there."""

SAMPLES = 2000
"""That batch norm is adapted on, if nothing is said."""

REGEX = "{re}"

INSIDE = re.compile(r"\[([^\[\]]*)\]")
LAYER = re.compile(r"(NNCF)?(Conv|Linear|ConvTranspose)\w*\[[^\[\]]*\]$|/\w+$")
PLAIN = re.compile(r"[\w-]+(\.[\w-]+)*(\.\*)?")


def root(source: Source, content: dict[str, Any], notes: list[str]) -> Entries:
    """The fields at the root that are read; training scripts have others there.

    Raises:
        AmcError: one is nearly one of NNCF's.
    """
    unread = [name for name in content if name not in (*TOP, *READ)]
    for name in unread:
        if name not in MORE and suggestion(name, TOP):
            raise source.unknown(name, TOP, "field of the configuration:")
    if unread:
        notes.append(f"not read, of a training script: {', '.join(unread)}")
    known = {name: value for name, value in content.items() if name not in unread}
    return Entries(source, known, "the configuration", (*TOP, *READ))


def entries(source: Source, given: Any, notes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry of filter pruning and that of sparsity, empty where there is none.

    Raises:
        AmcError: there is neither, two of a kind, or an algorithm that is unknown.
    """
    known, found = (PRUNING, *SPARSITY), dict[bool, dict[str, Any]]()
    for one in given if isinstance(given, list) else [given]:
        if not isinstance(one, dict) or not isinstance(one.get("algorithm"), str):
            where = source.place("compression")
            raise AmcError(f"{where}: compression needs an algorithm, such as {PRUNING}")
        name = one["algorithm"]
        kind = name == PRUNING
        if name in BESIDE:
            notes.append(f"{name}: {BESIDE[name]}")
        elif name not in known:
            raise source.unknown(name, (*known, *BESIDE), "algorithm")
        elif kind in found:
            where, allowed = source.place(name, last=True), (PRUNING,) if kind else SPARSITY
            raise AmcError(
                f"{where}: {found[kind]['algorithm']} and {name}; expected one of "
                f"{', '.join(allowed)}"
            )
        else:
            found[kind] = one
    if not found:
        raise AmcError(f"{source.path}: expected one of {', '.join(known)}, got none")
    return found.get(True, {}), found.get(False, {})


def adaptation(source: Source, places: Sequence[Entries], usual: bool) -> dict[str, Any]:
    """On how many images batch norm is adapted.

    Args:
        source: the file.
        places: that may hold an initializer.
        usual: whether NNCF adapts it without being asked.

    Raises:
        AmcError: two places want different numbers.
    """
    outer, name, counts = "batchnorm_adaptation", "num_bn_adaptation_samples", set[int]()
    for one in places:
        if "initializer" in one:
            given = Entries(source, one.get("initializer", dict, {}), "initializer", (outer,))
            inner = Entries(source, given.get(outer, dict, {}), outer, (name,))
            counts.add(inner.count(name, SAMPLES, 0))
    if len(counts) > 1:
        words = " and ".join(map(str, sorted(counts)))
        raise AmcError(f"{source.place(name)}: {name} {words}: it is one number here, give one")
    samples = counts.pop() if counts else SAMPLES if usual else 0
    return {"bn_samples": samples} if samples else {"bn_adapt": False}


def initializer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The field of an entry that says so.

    Raises:
        AmcError: it is no number of images.
    """
    samples = settings["bn_samples"] if settings["bn_adapt"] else 0
    if samples is None:
        raise AmcError("--bn-samples: NNCF adapts batch norm on a number of images, give it")
    return {"initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": samples}}}


def named_layers(source: Source, given: Sequence[Entries], top: Entries) -> dict[str, Any]:
    """The layers that all entries leave as they are, or the only ones that they change.

    Raises:
        AmcError: entries name different ones.
    """
    found = [_layers(own, top) for own in given]
    if found[0] != found[-1]:
        where = source.place("_scopes", last=True)
        raise AmcError(f"{where}: both algorithms need the same scopes: here is one list of each")
    return found[0]


def _layers(*places: Entries) -> dict[str, Any]:
    found = {}
    for setting, name in FIELDS.items():
        scopes = [scope for one in places for scope in one.words(name)]
        if scopes:
            found[setting] = tuple(dict.fromkeys(map(pattern_of, scopes)))
    return found


def scopes_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an entry that name layers.

    Raises:
        AmcError: a pattern that no scope stands for.
    """
    return {
        name: [_written(setting, pattern) for pattern in settings[setting]]
        for setting, name in FIELDS.items()
        if settings[setting]
    }


def _written(setting: str, pattern: str) -> str:
    scope = None if pattern[:1].isupper() and "." not in pattern else scope_of(pattern)
    if scope is None:
        raise AmcError(
            f"--{setting} {pattern!r}: NNCF has names of layers and {{re}} with an expression"
        )
    return scope


def pattern_of(scope: str) -> str:
    """The pattern of layers that a scope means; a dotted name or a glob is one already."""
    if REGEX in scope:
        regex = scope.replace(REGEX, "")
        names = re.findall(r"\\\[(.*?)\\\]", regex)
        for pattern in (".".join(names), ".".join([*names, "*"])):
            if names and _regex(pattern) == regex:
                return pattern
        return REGEX + regex
    names = INSIDE.findall(scope)
    if not names:
        return scope
    return ".".join(names if LAYER.search(scope) else [*names, "*"])


def scope_of(pattern: str) -> str | None:
    """The scope of a layer's name, of ``name.*`` or of ``{re}...``; of others there is none."""
    if pattern.startswith(REGEX):
        return pattern
    return REGEX + _regex(pattern) if PLAIN.fullmatch(pattern) else None


def _regex(pattern: str) -> str:
    """A regular expression of NNCF's scopes; what its bracket parts name is the pattern."""
    *names, last = pattern.split(".")
    inside = last == "*"
    path = "/".join(rf"[^/]*\[{name}\]" for name in (names if inside else [*names, last]))
    return f"^[^/]*/{path}/" + ("" if inside else "[^/]*$")
