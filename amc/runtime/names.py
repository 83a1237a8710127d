"""The names that a user may give for networks, data and files, looked at before torch is loaded.

Whether what they name is of any use shows later; that it is there at all takes no time to see.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amc.runtime.errors import AmcError
from amc.runtime.files import expanded

MODELS = (
    "resnet20", "resnet56", "resnet50", "plain20", "vgg16", "mobilenet_v1", "mobilenet_v2", "vit",
)  # fmt: skip
TASKS = ("classification", "detection")
REWARDS = ("divergence", "loss", "accuracy", "accuracy_flops", "accuracy_params")
TARGETS = ("channels", "heads", "weights", "blocks")
"""What can go: channels and attention heads are removed; of the others one may become zero."""
STRUCTURES, ZEROS = TARGETS[:2], TARGETS[2:]
METRICS = (
    "lasso", "obs", "l1", "l2", "geometric_median", "bn_scale", "activation_mean", "apoz",
    "gradient", "taylor", "taylor_signed", "fisher", "movement", "random",
)  # fmt: skip
WEIGHT_METRICS = ("magnitude", "normed_magnitude", "rb", "const", "obs")
"""Which weights or blocks become zero; obs is of channels as well."""
SCHEDULES = (
    "one-shot", "baseline", "linear", "agp", "exponential", "exponential-bias", "polynomial",
    "multistep", "adaptive",
)  # fmt: skip
OBJECTIVES = ("macs", "params", "filters", "memory", "activations", "bits", "latency")
WITH_PATH = ("cifar10", "cifar100", "idx", "imagefolder", "hf", "torchvision")
KINDS = ("digits", "glyphs", *WITH_PATH)
FORMS = (
    "digits",
    "glyphs",
    "cifar10:/path",
    "cifar100:/path",
    "idx:/path[?set=name&train=images&flip=1]",
    "imagefolder:/path[?size=pixels&crop=part&workers=processes]",
    "hf:name-or-folder[?image=column&label=column&size=pixels]",
    "torchvision:Name[?root=path&download=1&size=pixels]",
    "package.module:function",
    "path/to/file.py:function",
)
LARGEST_SIDE, MOST_WORKERS = 8192, 256

EXPORTS = ("onnx", "int8", "pt2", "safetensors", "state_dict")
"""Files of the network that is left; int8 is an ONNX file as well."""
PACKAGED = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}
"""Networks of other packages by what stands before the colon, and the package."""
EXTRAS = {"timm": "timm", "torchvision": "vision", "transformers": "hf", "datasets": "hf"}
HF_DATA = ("image", "label", "split", "train", "val", "test", "config", "revision")

ALLOCATORS = (
    "ddpg", "td3", "sac", "screened", "evolution", "annealing", "cem", "random", "legr",
    "greedy", "knapsack", "ranking", "sensitivity", "uniform", "list",
)  # fmt: skip
"""The first three are agents, the next seven try strategies too, the others know one at once."""

NAMES = {
    "target": TARGETS, "metric": METRICS, "allocator": ALLOCATORS, "schedule": SCHEDULES,
    "objective": OBJECTIVES, "reward": REWARDS,
}  # fmt: skip
"""Settings that take one of these names, or ``module:function``."""

RENAMED = {"selector": "metric", "agent": "allocator"}
"""Settings by the names that they once had, which still work: on the command line, in Python, in
settings and records of older runs."""


def current_name(name: str, known: Container[str]) -> str:
    """The name that a setting has now: the new one of `RENAMED`, where only that is known."""
    new = RENAMED.get(name, name)
    return new if name not in known and new in known else name


def check(settings: Mapping[str, Any]) -> None:
    """Refuses what the settings of a command name, and what is not there.

    Args:
        settings: by name; --model may hold several networks, separated by commas.

    Raises:
        AmcError: the name, and what would be allowed or is nearest.
    """
    several = isinstance(settings.get("preserve_ratio"), str)  # then so may be the networks
    model = settings.get("model")  # a command that works on run folders names none
    for one in (model.split(",") if several else [model]) if model else ():
        check_model(one)
    if settings.get("data") is not None:
        kind, rest = data_form(settings["data"])
        if kind == "imagefolder":
            folder_settings(rest)
        if kind == "idx":
            idx_settings(rest)
        if kind in ("hf", "torchvision"):
            check_installed("datasets" if kind == "hf" else kind, f"--data {settings['data']}")
            picture_settings(settings["data"])
        if kind == "function":
            _check_function(settings["data"])
    if (task := settings.get("task", TASKS[0])) not in TASKS:
        _check_function(task)
    _check_names(settings)
    _check_files(settings)


def _check_names(settings: Mapping[str, Any]) -> None:
    if (finetune := settings.get("finetune")) is not None:
        _check_function(finetune)
    for name in NAMES:
        if (value := settings.get(name)) is None or name == "objective":
            continue
        if name == "target":
            targets_in(value)
        elif name == "metric":
            metrics_in(value)
        else:
            check_name(name, value)
    for limit in settings.get("objective", "").split(","):  # names are those of its section
        if ":" in limit:
            _check_function(limit.partition("=")[0])


def _check_files(settings: Mapping[str, Any]) -> None:
    files = ("checkpoint", "strategy", "overrides", "latency_table", "ranking", "score_curves")
    for name in files:
        path = settings.get(name)
        if path is not None and not path.is_file():
            raise AmcError(f"--{name.replace('_', '-')} {path}: no such file")
    for name in ("policy", "plan"):
        path = settings.get(name)
        if path is not None and not (path.exists() or path.with_suffix(".json").exists()):
            raise AmcError(f"--{name} {path}: no such file or folder")
    if (resume := settings.get("resume")) is not None and not resume.is_dir():
        raise AmcError(f"--resume {resume}: no such folder")


def check_model(spec: str) -> None:
    """Refuses what is no bundled network, no network of a package, and no name of a function."""
    kind, colon, name = spec.partition(":")
    if colon and kind in PACKAGED:
        if not name:
            raise AmcError(f"--model {spec}: a name is missing, such as {spec}resnet18")
        check_installed(PACKAGED[kind], f"--model {spec}")
    elif colon:
        _check_function(spec)
    elif spec not in MODELS:
        raise AmcError(
            f"--model {spec!r} is unknown; allowed: {', '.join(MODELS)}, timm:name, "
            "torchvision:name, hf:name-or-folder, module:function, "
            f"path/to/file.py:function{_nearest(spec, MODELS)}"
        )


def check_installed(package: str, where: str) -> None:
    """Refuses what a package is needed for that is not there; nothing is loaded."""
    if find_spec(package) is None:
        extra = EXTRAS[package]
        raise AmcError(
            f"{where}: {package} is not installed: pip install {package}, or amc-pruning[{extra}]"
        )


def is_path(name: str) -> bool:
    """Whether the name on a hub is rather a path: it begins as one, or is there."""
    return name.startswith(("/", ".", "~")) or Path(name).exists()


def check_name(setting: str, name: str, allowed: Sequence[str] = ()) -> None:
    """Refuses what is neither one of the names of a setting (`NAMES`) nor that of a function."""
    allowed = allowed or NAMES[setting]
    if ":" in name:
        _check_function(name)
    elif name not in allowed:
        raise AmcError(
            f"--{setting} {name!r} is unknown; allowed: {', '.join(allowed)}, "
            f"module:function{_nearest(name, allowed)}"
        )


def targets_in(spec: str) -> tuple[tuple[str, ...], str]:
    """What ``--target`` names: words of `TARGETS`, in their order, and a function or nothing.

    A function alone narrows the graph of channels and heads.

    Raises:
        AmcError: an unknown word, one given twice, or two that exclude each other.
    """
    words = [word.strip() for word in spec.split(",")]
    for word in words:
        check_name("target", word)
    functions = [word for word in words if ":" in word]
    zeros = [word for word in words if word in ZEROS]
    if len(set(words)) < len(words) or len(functions) > 1 or len(zeros) > 1:
        raise AmcError(
            f"--target {spec}: give each word once, one of {' and '.join(ZEROS)} at most, and one "
            "function at most, such as channels,heads"
        )
    named = tuple(word for word in TARGETS if word in words)
    return named or STRUCTURES, "".join(functions)


def metrics_in(spec: str) -> tuple[str, str]:
    """What ``--metric`` names: the metric of channels, and that of weights; empty if it does not.

    One word, or two with a comma between, of channels first: ``l1,magnitude``.

    Raises:
        AmcError: an unknown word, or two of one kind.
    """
    words = [word.strip() for word in spec.split(",")]
    if len(words) == 1 and spec in WEIGHT_METRICS:
        return (spec if spec in METRICS else ""), spec
    if len(words) == 1:
        known = (*METRICS, *(word for word in WEIGHT_METRICS if word not in METRICS))
        check_name("metric", spec, known)
        return spec, ""
    if len(words) > 2 or words[-1] not in WEIGHT_METRICS:
        raise AmcError(
            f"--metric {spec!r}: expected one, or one of channels and one of weights, "
            f"{', '.join(WEIGHT_METRICS)}, such as lasso,magnitude"
        )
    check_name("metric", words[0])
    return words[0], words[1]


def check_export(name: str) -> None:
    """Refuses what is no format of `EXPORTS`."""
    if name not in EXPORTS:
        raise AmcError(
            f"--export {name!r} is unknown; allowed: {', '.join(EXPORTS)}{_nearest(name, EXPORTS)}"
        )


def data_form(spec: str) -> tuple[str, str]:
    """Which of `KINDS` a data set is, or "function", and what follows the colon.

    Raises:
        AmcError: it has none of the `FORMS`.
    """
    kind, colon, rest = spec.partition(":")
    if spec in ("digits", "glyphs") or (kind in WITH_PATH and rest):
        return kind, rest
    if kind not in KINDS and colon and rest.rpartition(":")[2].isidentifier():
        return "function", spec
    near = difflib.get_close_matches(kind, KINDS, n=1)
    form = next((form for form in FORMS if near and form.partition(":")[0] == near[0]), None)
    hint = f"; did you mean {form}?" if form else ""
    raise AmcError(f"data {spec!r}: unknown, expected one of {', '.join(FORMS)}{hint}")


@dataclass(frozen=True)
class FolderSettings:
    """What ``/path?size=64&crop=0.875&workers=4`` says of a folder of images."""

    path: Path
    side: int = 224
    crop: float = 1.0
    workers: int = 0


def folder_settings(
    rest: str, side: int = 224, workers: int = 0, crop: float = 1.0
) -> FolderSettings:
    """The settings behind the path of an image folder.

    Args:
        rest: what follows ``imagefolder:``.
        side: pixels of an image, if it does not say.
        workers: processes that decode, if it does not say.
        crop: part of the shorter side, if it does not say.

    Raises:
        AmcError: an unknown setting, or one out of range.
    """
    path, question, query = rest.partition("?")
    given: dict[str, float] = {"size": side, "crop": crop, "workers": workers}
    for setting in query.split("&") if question else ():
        match = re.fullmatch(r"(size|workers)=(\d{1,5})|(crop)=(\d*\.?\d+)", setting)
        if match is None:
            raise AmcError(
                f"imagefolder:{rest}: {setting!r} given, expected size=pixels, crop=part or "
                "workers=processes"
            )
        name, value = (word for word in match.groups() if word is not None)
        given[name] = float(value)
    _in_range(given, f"imagefolder:{rest}")
    return FolderSettings(expanded(path), int(given["size"]), given["crop"], int(given["workers"]))


def _in_range(given: Mapping[str, float], where: str) -> None:
    for name, least, most, what in (
        ("size", 1, LARGEST_SIDE, "image size"),
        ("workers", 0, MOST_WORKERS, "workers"),
    ):
        if name in given and not least <= given[name] <= most:
            raise AmcError(
                f"{where}: {what} {given[name]:g} given, must be at least {least}"
                f" and at most {most}"
            )
    if "crop" in given and not 0 < given["crop"] <= 1:
        raise AmcError(f"{where}: crop {given['crop']:g} given, must be in (0, 1]")


@dataclass(frozen=True)
class PictureSettings:
    """What ``name?size=64&crop=0.875&workers=4&flip=1&...`` says of another package's data."""

    name: str
    side: int | None = None
    crop: float | None = None
    workers: int = 0
    flip: bool | None = None
    others: Mapping[str, str] = field(default_factory=dict)


def picture_settings(spec: str, workers: int = 0) -> PictureSettings:
    """The settings behind the name of a data set of another package.

    Args:
        spec: ``hf:...`` or ``torchvision:...``.
        workers: processes that decode, if it does not say.

    Raises:
        AmcError: no such setting, or one out of range.
    """
    kind, _, rest = spec.partition(":")
    name, question, query = rest.partition("?")
    given, others = dict[str, float](), dict[str, str]()
    for setting in query.split("&") if question else ():
        word, equals, value = setting.partition("=")
        number = re.fullmatch(r"(size|workers)=\d{1,5}|crop=\d*\.?\d+|flip=[01]", setting)
        if number is not None:
            given[word] = float(value)
        elif not (equals and value) or word in ("size", "workers", "crop", "flip"):
            wanted = "size=pixels, crop=part, workers=processes, flip=0 or 1, name=value"
            raise AmcError(f"{spec}: {setting!r} given, expected {wanted}")
        elif kind == "hf" and word not in HF_DATA:
            allowed = ", ".join((*HF_DATA, "size", "crop", "workers", "flip"))
            raise AmcError(f"{spec}: no setting {word!r}; there are {allowed}")
        else:
            others[word] = value
    _in_range(given, spec)
    side, flip = given.get("size"), given.get("flip")
    return PictureSettings(
        name,
        None if side is None else int(side),
        given.get("crop"),
        int(given.get("workers", workers)),
        None if flip is None else flip == 1,
        others,
    )


@dataclass(frozen=True)
class IdxSettings:
    """What ``/path?set=letters&train=12000&flip=1`` says of a folder of IDX files."""

    path: Path
    set: str | None = None
    train: int | None = None  # images of the training stream; None: all
    flip: bool = False


def idx_settings(rest: str) -> IdxSettings:
    """The settings behind the path of a folder of IDX files.

    Args:
        rest: what follows ``idx:``.

    Raises:
        AmcError: an unknown setting, or one out of range.
    """
    path, question, query = rest.partition("?")
    given: dict[str, str] = {}
    for setting in query.split("&") if question else ():
        match = re.fullmatch(r"(set)=([\w-]*)|(train)=([1-9]\d{0,9})|(flip)=([01])", setting)
        if match is None:
            raise AmcError(
                f"idx:{rest}: {setting!r} given, expected set=name, train=images (1 or more) or "
                "flip=1"
            )
        name, value = (word for word in match.groups() if word is not None)
        given[name] = value
    train = int(given["train"]) if "train" in given else None
    return IdxSettings(expanded(path), given.get("set"), train, given.get("flip") == "1")


def _check_function(spec: str) -> None:
    """Refuses a file that is not there; a module may only turn up once torch has been loaded."""
    source = spec.rpartition(":")[0]
    if source.endswith(".py") and not expanded(source).is_file():
        raise AmcError(f"{source}: no such file, expected a Python file")


def _nearest(given: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
