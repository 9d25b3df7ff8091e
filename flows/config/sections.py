"""A section `{_target_: …, key: value}` read against the constructor that it names: its signature is the schema.

Every key must be a parameter, every value of the parameter's type and in its range (`Annotated[int, Ge(1)]`, `Literal[…]`), and every
parameter without a default must be given, but for those that are filled by name when the section is built (`FILLED`). Types are
strict: "3" is no number, true is no number, 3.0 is no whole number; 3 is a number. Sections within sections are read the same way.
"""

from __future__ import annotations

import inspect
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from components.errors import ConfigError, closest
from flows.config.allowed import resolve
from flows.config.words import allowed, options, quote, shown, unwrap

FILLED = frozenset(
    {
        "activation",
        "input_shape",
        "classes",
        "class_names",
        "vocabulary",
        "vocabulary_size",
        "target_vocabulary",
        "target_vocabulary_size",
        "predicts",
    }
)
"""Parameters that are filled by name when a section is built: the activation's factory, and the facts of the prepared data."""

DEEPEST = 20

_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "too_short", "too_long"}
_PLAIN = (bool, int, float, str, type(None), list, tuple, dict, set, frozenset, Sequence, Mapping, Any)


@dataclass(frozen=True)
class Section:
    """One section, read: what is to be called, with what, and what is still open.

    Attributes:
        key: its place in the configuration.
        source: the section as it was given.
        target: the class or function.
        given: parameter → value, converted to the parameter's type; a nested section is a `Section`.
        open: parameters in `FILLED` that the section does not give, and whether each has to be filled.
        partial: whether building it gives a factory instead of the object.
    """

    key: str
    source: Mapping[str, Any]
    target: Callable[..., Any]
    given: dict[str, Any]
    open: dict[str, bool]
    partial: bool


def read(section: Any, key: str, *, group: str | None = None, expected: Any = None) -> Section:
    """Read one section.

    Args:
        section: `{_target_: …, …}`.
        key: its place in the configuration, for messages.
        group: the group whose choice it is, if it is one.
        expected: the annotation of the parameter whose value it is, if it is one.

    Raises:
        ConfigError: one line about the first thing that is wrong.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"{quote(key)}: {shown(section)} is not a section (allowed: a mapping with _target_)")
    if "_target_" not in section:
        raise ConfigError(f"{quote(key)}: has no _target_")
    target = resolve(section["_target_"], key, group=group)
    partial = _partial(section, key, wanted=group == "activation" if group else _wants_factory(expected))
    if expected is not None:
        _refuse_misfit(target, expected, key)
    parameters = signature(target, key)
    given: dict[str, Any] = {}
    for name, value in section.items():
        if name in ("_target_", "_partial_"):
            continue
        place = f"{key}.{name}" if key else str(name)
        if name not in parameters:
            known = [other for other in parameters if other not in FILLED]
            listed = f"allowed: {', '.join(known)}" if known else "it has no settings"
            inside = [f"{key}.{other}.{name}" for other, part in section.items() if isinstance(part, Mapping) and name in part]
            near = f"did you mean {inside[0]}?" if inside else closest(str(name)[:60], known).strip(" ()")
            raise ConfigError(f"{quote(place)}: no such key ({listed}{'; ' + near if near else ''})")
        given[name] = _value(value, parameters[name][0], place)
    missing = {name: required for name, (_, required) in parameters.items() if name not in given}
    for name, required in missing.items():
        if required and name not in FILLED and not partial:
            raise ConfigError(f"{quote(f'{key}.{name}')}: missing (allowed: {allowed(parameters[name][0])})")
    return Section(key, section, target, given, {name: required for name, required in missing.items() if name in FILLED}, partial)


def signature(target: Callable[..., Any], key: str) -> dict[str, tuple[Any, bool]]:
    """Parameter → (annotation, whether it has to be given) of a class's constructor or a function. Raises ConfigError if it has none."""
    if is_dataclass(target):
        annotated: Any = target  # its fields, each read where its own class is written: a dataclass may inherit some
    else:
        annotated = target.__init__ if inspect.isclass(target) else target
    try:
        hints = get_type_hints(annotated, include_extras=True)
        parameters = inspect.signature(target).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"{key}._target_: {target.__qualname__} does not say what it takes ({error})") from error
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {
        name: (hints.get(name, Any), parameter.default is inspect.Parameter.empty)
        for name, parameter in parameters.items()
        if parameter.kind in named
    }


def plain(value: Any, key: str, depth: int = 0) -> None:
    """Raise ConfigError unless `value` is plain JSON: finite numbers, printable texts, lists, and mappings with text keys."""
    if depth > DEEPEST:
        raise ConfigError(f"{quote(key)}: nested too deeply (allowed: {DEEPEST} levels)")
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise ConfigError(f"{quote(key)}: the key {shown(name)} is not a text")
            place = f"{key}.{name}" if key else name
            if not name.isprintable() or (name.startswith("_") and name not in ("_target_", "_partial_")):
                raise ConfigError(f"{quote(place)}: no such key (keys do not begin with _, but for _target_ and _partial_)")
            plain(item, place, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            plain(item, f"{key}.{index}", depth + 1)
    else:
        _plain_scalar(value, key)


def check(value: Any, annotation: Any, key: str) -> Any:
    """`value` as the type `annotation`, strictly. Raises ConfigError with what is allowed."""
    try:
        return _adapter(annotation).validate_json(json.dumps(value))
    except ValidationError as error:
        problems = error.errors(include_url=False)
    except (PydanticUserError, ValueError) as error:
        raise ConfigError(f"{quote(key)}: {shown(value)} is not allowed (allowed: {allowed(annotation)})") from error
    choices = options(annotation)
    if choices and isinstance(value, str):
        texts = [str(choice) for choice in choices]
        others = [allowed(member) for member in get_args(unwrap(annotation)[0]) if unwrap(member)[0] is str]
        raise ConfigError(f"{quote(key)}: {shown(value)} is not one of {', '.join(texts + others)}{closest(value[:60], texts)}")
    verdict = "out of range" if all(problem["type"] in _OUT_OF_RANGE for problem in problems) else "not allowed"
    raise ConfigError(f"{quote(key)}: {shown(value)} is {verdict} (allowed: {allowed(annotation)})")


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    """Made once for each type: making one takes longer than a hundred checks."""
    return TypeAdapter(annotation, config=_STRICT)


def _plain_scalar(value: Any, key: str) -> None:
    if isinstance(value, str):
        if not value.replace("\n", " ").replace("\t", " ").isprintable():
            raise ConfigError(f"{quote(key)}: {shown(value)} has control or invisible characters")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{quote(key)}: {shown(value)} is out of range (allowed: finite numbers)")
    elif isinstance(value, int):
        if value.bit_length() > 63:
            raise ConfigError(f"{quote(key)}: a whole number of {value.bit_length()} bits is out of range (allowed: 63 bits)")
    elif value is not None:
        raise ConfigError(f"{quote(key)}: {shown(value)} is not plain data (allowed: null, true, false, numbers, texts, lists, mappings)")


def _value(value: Any, annotation: Any, key: str) -> Any:
    """One parameter's value: plain data of its type, or a section, or a list or mapping of sections."""
    if not _has_target(value):
        return check(value, annotation, key)
    members = _members(annotation)
    if isinstance(value, Mapping) and "_target_" in value:
        if not any(_takes_objects(member) for member in members):
            raise ConfigError(f"{quote(key)}: a section with _target_ is not allowed here (allowed: {allowed(annotation)})")
        return read(value, key, expected=annotation)
    for member in members:
        arguments = [argument for argument in get_args(member) if argument is not Ellipsis]
        if isinstance(value, list) and get_origin(member) in (list, tuple, Sequence) and len(arguments) == 1:
            return [_value(item, arguments[0], f"{key}.{place}") for place, item in enumerate(value)]
        if isinstance(value, Mapping) and get_origin(member) in (dict, Mapping) and len(arguments) == 2:
            return {name: _value(item, arguments[1], f"{key}.{name}") for name, item in value.items()}
    raise ConfigError(f"{quote(key)}: a section with _target_ is not allowed here (allowed: {allowed(annotation)})")


def _partial(section: Mapping[str, Any], key: str, *, wanted: bool) -> bool:
    """Whether the section is a factory, which is where one is wanted and nowhere else."""
    partial = section.get("_partial_", False)
    if partial is not wanted:
        raise ConfigError(f"{quote(key)}._partial_: {shown(partial)} is not allowed (allowed: {str(wanted).lower()})")
    return bool(partial)


def _refuse_misfit(target: Callable[..., Any], expected: Any, key: str) -> None:
    """Raise ConfigError unless calling `target` gives what a parameter annotated `expected` takes, as far as classes can tell."""
    result = target if inspect.isclass(target) else get_type_hints(target).get("return")
    for wanted in _results(expected):
        if getattr(wanted, "_is_protocol", False):
            abilities = [name for name, value in vars(wanted).items() if callable(value) and not name.startswith("_")]
            fits = bool(abilities) and all(callable(getattr(result, name, None)) for name in abilities)
        else:
            fits = inspect.isclass(result) and issubclass(result, wanted)
        if fits:
            return
    raise ConfigError(f"{quote(key)}._target_: {target.__qualname__} is not {allowed(expected)}")


def _members(annotation: Any) -> list[Any]:
    """The types that a union is made of, without `Annotated`; one for every other type."""
    annotation, _ = unwrap(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [annotation]


def _results(expected: Any) -> list[Any]:
    """The classes whose objects a parameter annotated `expected` takes, or has made by the factory that it takes."""
    found: list[Any] = []
    for member in _members(expected):
        if _is_factory(member):
            found.extend(_results(get_args(member)[-1]) if get_args(member) else [])
        elif inspect.isclass(member) and _takes_objects(member):
            found.append(member)
    return found


def _takes_objects(member: Any) -> bool:
    return _is_factory(member) or bool(inspect.isclass(member) and get_origin(member) is None and member not in _PLAIN)


def _is_factory(member: Any) -> bool:
    return member is Callable or get_origin(member) is Callable


def _wants_factory(expected: Any) -> bool:
    return any(_is_factory(member) for member in _members(expected))


def _has_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or "_partial_" in value or any(_has_target(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_target(item) for item in value)
