"""Networks of Hugging Face's `transformers`: of the hub, of a folder, or of a configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc.models.packages.facts import Facts
from amc.models.packages.image_processor import preprocessing_of
from amc.runtime.errors import AmcError
from amc.runtime.files import expanded
from amc.runtime.names import is_path
from amc.runtime.user_code import package_code

ADVICE = "; without network: hf:/path of a folder with config.json and model.safetensors"
CLASSIFIER = "ForImageClassification"
WEIGHTS = "*.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def facts(name: str) -> Facts:
    """What the configuration and the image processor of a network say.

    Args:
        name: ``org/name`` or ``org/name@revision`` of the hub; a folder with ``config.json``; such
            a file alone.

    Raises:
        AmcError: there is no such network, or it needs code of its own.
    """
    config, place = _config(name), _folder(name)
    here = place is None or any(any(place.glob(kind)) for kind in (WEIGHTS, *PICKLED))
    classes = int(config.num_labels) if CLASSIFIER in _class_name(config) else 0
    where = f"hf:{name}"
    shown, note = preprocessing_of(*_source(name), where, _silent)
    if shown is not None and classes:
        labels = tuple(str(config.id2label.get(i, i)) for i in range(classes))
        shown = shown.named(labels)
    channels = getattr(config, "num_channels", 3)
    return Facts(int(channels), classes, f"of {where}" if here else "", shown, note)


def build(name: str, *, num_classes: int, in_channels: int, weights: bool) -> nn.Module:
    """A network, with the weights of its folder or of the hub, or with random ones.

    Weights are safetensors; no code that comes with a network is run.

    Raises:
        AmcError: it cannot be built, or its weights are not there, or not as safetensors.
    """
    config, place = _config(name), _folder(name)
    if place is not None and weights and not any(place.glob(WEIGHTS)):
        pickles = [path.name for kind in PICKLED for path in sorted(place.glob(kind))]
        if pickles:
            raise AmcError(
                f"--model hf:{name}: weights only as {pickles[0]}, a pickle, which may hold code: "
                "save_pretrained writes them as model.safetensors"
            )
        weights = False
    import transformers

    kind = getattr(transformers, _class_name(config), transformers.AutoModelForImageClassification)
    with package_code(f"--model hf:{name}", "" if place else ADVICE), _silent():
        if weights:
            where, revision = _source(name)
            model, loaded = kind.from_pretrained(
                where, config=config, revision=revision, use_safetensors=True,
                trust_remote_code=False, dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
            _check_loaded(name, loaded)
        else:
            if num_classes and CLASSIFIER in kind.__name__:
                config.num_labels = num_classes
            if hasattr(config, "num_channels"):
                config.num_channels = in_channels
            auto = kind.__name__.startswith("Auto")
            model = kind.from_config(config) if auto else kind(config)
    assert isinstance(model, nn.Module)
    return model


def _check_loaded(name: str, loaded: Any) -> None:
    """Refuses a network of which a part would have random weights."""
    missing = sorted(map(str, loaded["missing_keys"])) + [
        str(key[0] if isinstance(key, tuple) else key) for key in loaded["mismatched_keys"]
    ]
    if missing:
        raise AmcError(
            f"--model hf:{name}: its weights lack {missing[0]} ({len(missing)} tensors): train it "
            "on your images first, and name the folder that save_pretrained writes"
        )


def _class_name(config: Any) -> str:
    """The class that a configuration was written by; a classifier where it does not say."""
    import transformers

    named = next(iter(config.architectures or ()), "")
    return named if hasattr(transformers, named) else f"Auto{CLASSIFIER}"


def _config(name: str) -> Any:
    from transformers import AutoConfig

    where, revision = _source(name)
    with package_code(f"--model hf:{name}", "" if _folder(name) else ADVICE), _silent():
        return AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)


def _source(name: str) -> tuple[str, str | None]:
    """Where transformers finds it, and the revision."""
    if is_path(name):
        return str(expanded(name)), None
    plain, _, revision = name.partition("@")
    return plain, revision or None


def _folder(name: str) -> Path | None:
    """The folder of a network that is here; that of a file for the file."""
    if not is_path(name):
        return None
    path = expanded(name)
    config = path if path.is_file() else path / "config.json"
    if not config.is_file():
        raise AmcError(f"--model hf:{name}: no such file: {config}")
    return path if path.is_dir() else path.with_suffix("")


@contextmanager
def _silent() -> Iterator[None]:
    """Without log lines and progress bars of its own."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as own

    loud = hub.get_verbosity()
    hub.set_verbosity(logging.CRITICAL)
    shown, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity(logging.CRITICAL)
    own.disable_progress_bar()
    try:
        yield
    finally:
        hub.set_verbosity(loud)
        own.set_verbosity(shown)
        if bars:
            own.enable_progress_bar()
