"""Overrides as a person types them, taken apart and refused one by one where they cannot be meant.

Hydra's grammar reads them; what it also allows and a configuration of the lab has no use for is refused here with one line: adding
and deleting keys, sweeps, packages, Hydra's own settings, and every interpolation but a plain reference to another value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import ConfigError
from flows.config.names import GROUPS
from flows.config.words import one_line, quote, shown

MOST = 100
LONGEST = 2000
MOST_REFERENCES = 16
"""References can double a text again and again; so few of them cannot make it large."""

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_REFERENCE = re.compile(r"\$\{\.*[A-Za-z_]\w*(\.\w+)*\}", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """`group=name`: another YAML of the group; `experiment=null` is none at all."""

    group: str
    name: str | None


@dataclass(frozen=True)
class Setting:
    """`key=value`: another value at a dotted place of the configuration."""

    key: str
    value: Any


def split(overrides: Sequence[str]) -> tuple[list[Choice], list[Setting]]:
    """Group choices and value settings among `overrides`, in their order. Raises ConfigError for the first that cannot be meant."""
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise ConfigError(f"overrides: {shown(overrides)} is not a list of texts such as 'trainer.epochs=3'")
    if len(overrides) > MOST:
        raise ConfigError(f"overrides: {len(overrides)} are too many (allowed: at most {MOST})")
    parsed = [parse(text) for text in overrides]
    if sum(text.count("${") for text in overrides) > MOST_REFERENCES:
        raise ConfigError(f"overrides: too many references (allowed: at most {MOST_REFERENCES} '${{key}}' in all)")
    given: dict[str, str] = {}
    for (key, _), text in zip(parsed, overrides, strict=True):
        if key in given:
            raise ConfigError(f"{quote(key)}: given twice ({shown(given[key])} and {shown(text)})")
        given[key] = text
    choices = [Choice(key, _name(key, value)) for key, value in parsed if key in GROUPS]
    return choices, [Setting(key, value) for key, value in parsed if key not in GROUPS]


def refuse_resolvers(value: Any, key: str = "") -> None:
    """Raise ConfigError when a text anywhere in `value` has an interpolation that is more than a plain reference to another value.

    Refused are resolvers (`${oc.env:HOME}`, `${hydra:…}`), references made of references, and any reference in a key or a `_target_`.
    """
    if isinstance(value, str):
        if "${" in _REFERENCE.sub("", value) or (key.rpartition(".")[2] == "_target_" and "${" in value):
            raise ConfigError(f"{quote(key)}: {shown(value)} is refused (allowed: the plain name of another key, and not in _target_)")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if "${" in str(name):
                raise ConfigError(f"{quote(key)}: the key {shown(name)} is refused (no '${{…}}' in keys)")
            refuse_resolvers(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            refuse_resolvers(item, f"{key}.{place}")


def parse(text: str) -> tuple[str, Any]:
    """Key and value of one override. Raises ConfigError when it cannot be meant."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ValueType
    from hydra.errors import HydraException

    key = _key(text)
    try:
        override = OverridesParser.create().parse_override(text)
        value = override.value()
    except (HydraException, RecursionError, ValueError, AssertionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(str(error).partition("\n")[0], 80)
        hint = "text with special characters needs quotes"
        raise ConfigError(f"override {shown(text)}: the value cannot be read ({reason}); {hint}") from error
    if override.value_type is not ValueType.ELEMENT:
        raise ConfigError(f"override {shown(text)}: only one value can be given; write a list as [a,b] and a text with commas in quotes")
    refuse_resolvers(value, key)
    return key, value


def _key(text: Any) -> str:
    """The key of one override, once everything that can be seen without reading the value is in order."""
    if not isinstance(text, str):
        raise ConfigError(f"override {shown(text)}: not a text (allowed: key=value)")
    if len(text) > LONGEST:
        raise ConfigError(f"override {shown(text)}: {len(text)} characters are too many (allowed: at most {LONGEST})")
    if not text.strip():
        raise ConfigError("override '': empty (allowed: key=value)")
    if not text.isprintable():
        raise ConfigError(f"override {shown(text)}: has control or invisible characters")
    if text[0] in "+~":
        raise ConfigError(f"override {shown(text)}: keys are neither added nor removed (allowed: key=value, without {text[0]!r})")
    key, equals, _ = text.partition("=")
    if not equals:
        raise ConfigError(f"override {shown(text)}: has no '=' (allowed: key=value)")
    if key.partition(".")[0].partition("/")[0].partition("@")[0] == "hydra":
        raise ConfigError(f"override {shown(text)}: Hydra's own settings cannot be changed here")
    if not _KEY.fullmatch(key):
        raise ConfigError(f"override {shown(text)}: {shown(key)} is not a key (allowed: names joined by dots, such as trainer.epochs)")
    return key


def _name(group: str, value: Any) -> str | None:
    if value is None and group == "experiment":
        return None
    if isinstance(value, Mapping | list):
        raise ConfigError(f"{group}: {shown(value)} is not a name; choose one, and set its values as {group}.key=value")
    return "null" if value is None else str(value)
