"""Our own JSON: ``config.json`` of a run, or some settings by hand."""

import json
from typing import Any

from amc.config.composed import NESTED, as_json, hints_of, typed
from amc.config.formats.source import Reading, Source
from amc.config.train import TrainConfig
from amc.runtime.errors import AmcError
from amc.runtime.limits import flag
from amc.runtime.names import current_name
from amc.runtime.wording import suggestion

THREADS, COMMAND = "threads", "command"
"""What a run's file holds beside the settings."""

OF_COMMANDS = ("resume", "config", "write_config")
"""Settings that say what a command does with files, and no file says itself."""

OF_ONE_RUN = ("run_dir", *OF_COMMANDS)
"""Settings of a run that another one does not take over."""


def read(source: Source, content: dict[str, Any]) -> Reading:
    """The settings that a file names; those of a run without its folder.

    Raises:
        AmcError: one is unknown, of the wrong kind, or the run was of another command.
    """
    content = dict(content)
    if (command := content.pop(COMMAND, TrainConfig.command)) != TrainConfig.command:
        where = source.place(json.dumps(COMMAND))
        raise AmcError(f"{where}: settings of {command!s:.40}, expected {TrainConfig.command}")
    if content.pop(THREADS, None) is not None:
        content = {name: value for name, value in content.items() if name not in OF_ONE_RUN}
    hints, found = hints_of(TrainConfig), dict[str, Any]()
    for name, value in content.items():
        nested = value if name in NESTED.values() and isinstance(value, dict) else {name: value}
        for given, one in nested.items():
            where, key = source.place(json.dumps(given)), current_name(given, hints)
            if key not in hints:
                raise AmcError(f"{where}: there is no setting {key!r}{suggestion(key, hints)}")
            if key in found:
                raise AmcError(f"{where}: {key} is given twice, by its old and its new name")
            if key in OF_COMMANDS:
                raise AmcError(f"{where}: {key} is no setting of a file, give {flag(key)}")
            found[key] = typed(one, hints[key], f"{where}: {key}")
    return Reading(found)


def write(config: TrainConfig) -> str:
    """The settings that are not the default."""
    default, found = as_json(type(config)()), dict[str, Any]()
    for name, value in as_json(config).items():
        if name in NESTED.values():
            value = {k: one for k, one in value.items() if one != default[name][k]}
            if not value:
                continue
        if value != default[name] and name not in OF_ONE_RUN:
            found[name] = value
    return json.dumps(found, indent=1) + "\n"
