"""AMCT's two messages of text protobuf: what the search is told, and what pruning is told.

Field names are those of ``AutoChannelPruneConfig`` and of the part of ``AMCTRetrainConfig`` that
prunes channels (Huawei AMCT, auto_channel_prune_search and create_prune_retrain_model).
"""

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from amc.config.formats.source import Source
from amc.runtime.errors import AmcError

PACKAGE = "amct"

SEARCH, PRUNE = "AutoChannelPruneConfig", "AMCTRetrainConfig"

FIELDS: dict[str, dict[str, str]] = {
    SEARCH: {
        "compress_ratio": "double",
        "ascend_optimized": "bool",
        "max_prune_ratio": "double",
        "test_iteration": "int32",
        "override_prune_cfg": "string",
    },
    PRUNE: {
        "skip_layers": "string*",
        "skip_layer_types": "string*",
        "regular_prune_skip_layers": "string*",
        "regular_prune_skip_types": "string*",
        "prune_config": "PruneConfig",
        "override_layer_configs": "OverrideLayer*",
        "override_layer_types": "OverrideLayerType*",
    },
    "OverrideLayer": {"layer_name": "string", "prune_config": "PruneConfig"},
    "OverrideLayerType": {"layer_type": "string", "prune_config": "PruneConfig"},
    "PruneConfig": {"filter_pruner": "FilterPruner"},
    "FilterPruner": {"balanced_l2_norm_filter_prune": "BalancedL2NormFilterPruner"},
    "BalancedL2NormFilterPruner": {"prune_ratio": "double", "ascend_optimized": "bool"},
}
"""Message -> field -> type; ``*``: any number of them."""

OF_SEARCH = re.compile(
    r"^\s*(compress_ratio|max_prune_ratio|test_iteration|override_prune_cfg)\s*:", re.MULTILINE
)


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="amct.proto", package=PACKAGE, syntax="proto2")
    kind = descriptor_pb2.FieldDescriptorProto
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (field, type_name) in enumerate(fields.items(), 1):
            several, plain = type_name.endswith("*"), type_name.rstrip("*")
            label = kind.LABEL_REPEATED if several else kind.LABEL_OPTIONAL
            entry = message.field.add(name=field, number=number, label=label)
            if plain in FIELDS:
                entry.type, entry.type_name = kind.TYPE_MESSAGE, f".{PACKAGE}.{plain}"
            else:
                entry.type = getattr(kind, f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in FIELDS)
    return {one.name: message_factory.GetMessageClass(one) for one in found}


CLASSES = _classes()


def new(name: str, **fields: Any) -> Any:
    """A message with these fields."""
    return CLASSES[name](**fields)


def parsed(source: Source, name: str) -> Any:
    """The message that a text holds.

    Raises:
        AmcError: it is none; the line is named, and for an unknown field the nearest.
    """
    message = new(name)
    try:
        return text_format.Parse(source.text, message)
    except text_format.ParseError as error:
        line = error.GetLine()
        where = f"{source.path}:{line}" if line else str(source.path)
        said = str(error)
        if unknown := re.search(r'"\w+\.(\w+)" has no field named "(\w+)"', said):
            raise source.unknown(
                unknown[2], FIELDS[unknown[1]], f"field of {unknown[1]}:"
            ) from None
        said = re.sub(r"^\d+:\d+ : ", "", said).replace("\n", " ")
        raise AmcError(f"{where}: not text protobuf of {name}: {said}") from None


def text_of(message: Any) -> str:
    """The message as text."""
    text: str = text_format.MessageToString(message)
    return text
