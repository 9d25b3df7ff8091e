"""From a configuration to objects: `validate` says whether everything in it is right, `build` calls one section's constructor.

What is called is what `allowed.resolve` lets through, with arguments that were checked against its signature, by twenty lines of our own:
nothing here follows names that the configuration invents.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic_core import to_jsonable_python

from components.errors import ConfigError, closest
from flows.config.allowed import group_of
from flows.config.names import SECTIONS
from flows.config.sections import Section, check, plain, read
from flows.config.words import one_line, quote, shown

ROOT: dict[str, Any] = {
    "name": str,
    "description": str,
    "seed": Annotated[int, Ge(0), Le(2**32 - 1)],
    "pretrained": str | None,
    "tags": list[str],
}
"""The keys beside the sections, and their types."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_PRETRAINED = re.compile(r"run:[\w.-]+|registry:[\w.-]+@[\w.-]+|(experiment|stage):[\w.-]+|(file|hf):.+|(package|torchvision):[\w.-]+")


def validate(config: Any) -> dict[str, Any]:
    """Check a composed configuration against the constructors that it names; nothing is called.

    Returns:
        The configuration with every value in its parameter's type, as plain JSON values (a 1 given for a number becomes 1.0).

    Raises:
        ConfigError: one line about the first key that is wrong: what was given, what is allowed, the closest match.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"configuration: {shown(config)} is not a mapping of keys to values")
    plain(config, "")
    known = [*ROOT, *SECTIONS]
    for key in config:
        if key not in known:
            raise ConfigError(f"{quote(key)}: no such key (allowed: {', '.join(known)}){closest(key[:60], known)}")
    for key in known:
        if key not in config or (key in SECTIONS and config[key] is None):
            raise ConfigError(f"{key}: missing; choose one with {key}=…" if key in SECTIONS else f"{key}: missing")
    result = {key: check(config[key], annotation, key) for key, annotation in ROOT.items()}
    if not _NAME.fullmatch(result["name"]):
        raise ConfigError(f"name: {shown(result['name'])} is not allowed (allowed: at most 80 letters, digits, '_', '-' and '.')")
    if result["pretrained"] is not None and not _PRETRAINED.fullmatch(result["pretrained"]):
        forms = "null, run:ID, registry:NAME@ALIAS, experiment:NAME, stage:NAME, file:PATH, hf:PATH, package:NAME, torchvision:NAME"
        raise ConfigError(f"pretrained: {shown(result['pretrained'])} is not allowed (allowed: {forms})")
    for group in SECTIONS:
        result[group] = _as_plain(read(config[group], group, group=group))
    return result


def build(section: Mapping[str, Any], key: str | None = None, /, **available: Any) -> Any:
    """The object that one section describes; with `_partial_: true` a factory of it.

    Args:
        section: `{_target_: …, …}` as `validate` returned it; it is checked again, so nothing unchecked is ever called.
        key: its place in the configuration, for messages; as a rule the group that its target is of.
        available: what parameters that the section does not give are filled from, by name: `activation` and the facts of the data.

    Raises:
        ConfigError: the section is wrong, a parameter is neither given nor available, or the constructor refuses a value.
    """
    return _call(_read(section, key), available)


def needs(section: Mapping[str, Any]) -> set[str]:
    """Names that building the section takes from what is available: the parameters among `FILLED` that it does not give itself."""
    return _needs(_read(section, None))


def _read(section: Any, key: str | None) -> Section:
    key = key or group_of(section) or "section"
    plain(section, key)
    factory = isinstance(section, Mapping) and section.get("_partial_") is True
    return read(section, key, group="activation" if factory else None)


def _call(value: Any, available: Mapping[str, Any]) -> Any:
    if isinstance(value, Section):
        arguments = {name: _call(given, available) for name, given in value.given.items()}
        arguments.update({name: available[name] for name in value.open if name in available})
        if value.partial:
            return functools.partial(value.target, **arguments)
        absent = sorted(name for name, required in value.open.items() if required and name not in arguments)
        if absent:
            raise ConfigError(f"{value.key}.{absent[0]}: missing, and neither the activation nor the data give it")
        try:
            return value.target(**arguments)
        except ValueError as error:
            raise ConfigError(f"{value.key}: {one_line(str(error))}") from error
    if isinstance(value, list):
        return [_call(item, available) for item in value]
    if isinstance(value, dict):
        return {name: _call(item, available) for name, item in value.items()}
    return value


def _needs(value: Any) -> set[str]:
    if isinstance(value, Section):
        return set(value.open).union(*(_needs(given) for given in value.given.values()))
    if isinstance(value, list | dict):
        return set().union(*(_needs(item) for item in (value.values() if isinstance(value, dict) else value)))
    return set()


def _as_plain(value: Any) -> Any:
    """What was read, as JSON values again."""
    if isinstance(value, Section):
        return {**value.source, **{name: _as_plain(given) for name, given in value.given.items()}}
    if isinstance(value, list):
        return [_as_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_plain(item) for name, item in value.items()}
    return to_jsonable_python(value)
