"""A learned policy as two files that need neither SB3 nor pickle to be read.

`policy.safetensors` holds the actor's weights and nothing else; `policy.json` says what they mean
and carries their SHA-256 and its own, so that changed files and those that do not belong together
are refused. The policy maps an observation to the noise-free action of the agent it was saved
from.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

if TYPE_CHECKING:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


FORMAT_VERSION = 2
KNOWN_VERSIONS = (1, 2)
"""Version 1 has no checksum of the description."""

_LIBRARIES = ("amc-pruning", "numpy", "safetensors", "stable-baselines3", "torch")


@dataclass(frozen=True)
class Policy:
    """The actor alone: a perceptron with ReLU layers and a tanh that is rescaled to [0, 1].

    Attributes:
        network: maps [B, S] to [B, A] in [-1, 1].
        observation_size: S.
        metadata: what the saver wrote about observations, actions and origin.
        digest: SHA-256 of the weights file.
    """

    network: nn.Sequential
    observation_size: int
    metadata: dict[str, Any]
    digest: str

    @property
    def net_arch(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        linears = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        return tuple(layer.out_features for layer in linears[:-1])

    def predict(
        self, observation: NDArray[np.floating], deterministic: bool = True
    ) -> tuple[NDArray[np.float32], None]:
        """Return the greedy action in [0, 1], as an SB3 model does.

        Args:
            observation: [S] or [B, S].
            deterministic: must be True: there is no other policy in the file.

        Returns:
            [A] or [B, A], as the observation has a batch dimension or not; None.

        Raises:
            ValueError: the observation has another shape.
        """
        values = np.asarray(observation, dtype=np.float32)
        if values.ndim not in (1, 2) or values.shape[-1] != self.observation_size:
            size = self.observation_size
            raise ValueError(f"observation must be [{size}] or [B, {size}], got {values.shape}")
        with torch.no_grad():
            action = (self.network(torch.tensor(values)) + 1.0) / 2.0
        result: NDArray[np.float32] = action.numpy()
        return result, None


def save_policy(
    path_stem: str | Path, model: "OffPolicyAlgorithm", metadata: Mapping[str, Any]
) -> None:
    """Write the actor of `model` to `<path_stem>.safetensors` and `<path_stem>.json`.

    Each file replaces an older one in a single step. If the machine stops between the two, the old
    description is left with new weights, which `load_policy` refuses.

    Args:
        path_stem: both file names without their suffix.
        model: DDPG, TD3 or SAC of SB3, with actions in [0, 1]; of SAC's actor its mean.
        metadata: JSON values for the reader: names of the observations, meaning of the action.

    Raises:
        ValueError: the actor is no plain ReLU perceptron, or the metadata are no JSON.
    """
    layers = actor_layers(model)
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    sizes = [layer.in_features for layer in linears] + [linears[-1].out_features]
    if [type(layer) for layer in layers] != [type(layer) for layer in _build_network(sizes)]:
        raise ValueError("only a ReLU perceptron with a tanh output can be saved as a policy file")
    weights = nn.Sequential(*layers).state_dict()
    payload = safetensors.torch.save({name: value.cpu() for name, value in weights.items()})
    description = {
        "format_version": FORMAT_VERSION,
        "observation_size": sizes[0],
        "action": {"size": sizes[-1], "low": 0.0, "high": 1.0},
        "net_arch": sizes[1:-1],
        "sha256": hashlib.sha256(payload).hexdigest(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "metadata": dict(metadata),
    }
    try:
        description["checksum"] = _checksum(description)
        text = json.dumps(description, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"policy metadata must be JSON values: {error}") from error
    _replace_file(_with_suffix(path_stem, ".safetensors"), payload)
    _replace_file(_with_suffix(path_stem, ".json"), text.encode() + b"\n")


def load_policy(path_stem: str | Path) -> Policy:
    """Read what `save_policy` wrote, checking everything before any of it is used.

    Args:
        path_stem: both file names without their suffix.

    Raises:
        ValueError: a file is missing, damaged, of another format version or does not fit the
            other one; the message is one line that names the file.
    """
    description_path = _with_suffix(path_stem, ".json")
    weights_path = _with_suffix(path_stem, ".safetensors")
    description = _parse_description(_read_file(description_path), description_path)
    payload = _read_file(weights_path)
    if hashlib.sha256(payload).hexdigest() != description["sha256"]:
        raise ValueError(f"{weights_path}: damaged, or not the file that its .json describes")
    try:
        weights = safetensors.torch.load(payload)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{weights_path}: not a safetensors file: {error}") from error
    observation_size, action = description["observation_size"], description["action"]
    sizes = [observation_size, *description["net_arch"], action["size"]]
    if {name: (value.dtype, *value.shape) for name, value in weights.items()} != _forms(sizes):
        raise ValueError(f"{weights_path}: weights do not have the sizes that the .json states")
    network = _build_network(sizes)
    network.load_state_dict(weights, assign=True)
    return Policy(network, observation_size, description["metadata"], description["sha256"])


def actor_layers(model: "OffPolicyAlgorithm") -> list[nn.Module]:
    """The layers of the actor, from the observation to the tanh."""
    actor: Any = model.actor
    latent = getattr(actor, "latent_pi", None)
    return list(actor.mu) if latent is None else [*latent, actor.mu, nn.Tanh()]


def _build_network(sizes: Sequence[int]) -> nn.Sequential:
    """Return the perceptron without weights: the meta device draws no random numbers for them."""
    layers: list[nn.Module] = []
    with torch.device("meta"):
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Tanh())


def _forms(sizes: Sequence[int]) -> dict[str, tuple[Any, ...]]:
    """Return the type and shape of every tensor in the weights file of such a perceptron."""
    forms: dict[str, tuple[Any, ...]] = {}
    for index, (size_in, size_out) in enumerate(pairwise(sizes)):
        forms[f"{2 * index}.weight"] = (torch.float32, size_out, size_in)
        forms[f"{2 * index}.bias"] = (torch.float32, size_out)
    return forms


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "observation_size": _is_size,
    "action": lambda v: isinstance(v, dict) and _is_size(v.get("size")),
    "net_arch": lambda v: isinstance(v, list) and all(map(_is_size, v)),
    "sha256": lambda v: isinstance(v, str),
    "metadata": lambda v: isinstance(v, dict),
}


def _parse_description(text: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object once its version and the form of its fields are as expected."""
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, absurd nesting
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    found = description.get("format_version") if isinstance(description, dict) else None
    if found not in KNOWN_VERSIONS:
        known = ", ".join(map(str, KNOWN_VERSIONS))
        raise ValueError(f"{path}: format_version {found!r} is unknown; known: {known}")
    for field, is_valid in _FIELDS.items():
        if not is_valid(description.get(field)):
            raise ValueError(f"{path}: field {field!r} is missing or wrong")
    if found != 1 and description.get("checksum") != _checksum(description):
        raise ValueError(f"{path}: content and checksum differ; the file was changed")
    return dict(description)


def _checksum(description: Mapping[str, Any]) -> str:
    """SHA-256 of the description without its checksum, as JSON of sorted keys."""
    rest = {key: value for key, value in description.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _with_suffix(path_stem: str | Path, suffix: str) -> Path:
    """Append the suffix; `Path.with_suffix` would eat the end of a stem like `run.0.5`."""
    return Path(f"{path_stem}{suffix}")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def _replace_file(path: Path, content: bytes) -> None:
    """Write `content` beside `path` and move it there, so that no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
