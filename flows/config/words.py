"""Values and types in the words of an error message: always one line, never long."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types

_NOUNS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("a text", "texts"),
    type(None): ("null", "null"),
    Any: ("any plain value", "any plain values"),
    dict: ("a mapping", "mappings"),
    list: ("a list", "lists"),
    tuple: ("a list", "lists"),
}


def shown(value: Any) -> str:
    """`value` as it appears in a message: one line of printable characters, at most 60 of them."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except (ValueError, RecursionError):  # a number too long to be written in decimals; a structure too deep
        text = f"a {type(value).__name__}"
    text = text if text.isprintable() else one_line(text)
    return text if len(text) <= 60 else f"{text[:57]}…"


def quote(key: str) -> str:
    """A dotted key as it appears in a message: bare where it is plain, otherwise as `shown`."""
    return key if key.isprintable() and len(key) <= 80 else shown(key)


def one_line(text: str, longest: int = 200) -> str:
    """Somebody else's message as one line of printable characters, at most `longest` of them."""
    joined = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return joined if len(joined) <= longest else f"{joined[: longest - 1]}…"


def options(annotation: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, also behind `Annotated` and in a union with null or a text; empty for every other type."""
    annotation, _ = unwrap(annotation)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        found = [values for member in get_args(annotation) if (values := options(member))]
        return found[0] if len(found) == 1 else ()
    return ()


def unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type inside `Annotated`, and what it is annotated with."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return inner, tuple(marks)
    return annotation, ()


def allowed(annotation: Any, *, plural: bool = False) -> str:
    """What values of the type `annotation` are, in words: `a whole number ≥ 1`, `a list of numbers > 0`, `fp32 or bf16`."""
    annotation, marks = unwrap(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join("null" if value is None else str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(allowed(member, plural=plural) + _bounds(marks) for member in arguments)
    if origin in (list, tuple, set, frozenset, Sequence, AbstractSet):
        return _list_of(origin, arguments, plural) + _bounds(marks)
    if origin in (dict, Mapping):
        return "mappings" if plural else "a mapping"
    if origin is Callable or annotation is Callable:
        return "factories (_partial_: true)" if plural else "a factory (_partial_: true)"
    said = [mark.documentation for mark in marks if isinstance(mark, annotated_types.DocInfo)]
    noun = (said[0],) * 2 if said else _NOUNS.get(annotation, (f"a {getattr(annotation, '__name__', annotation)}",) * 2)
    return noun[plural] + _bounds(marks)


def _list_of(origin: Any, arguments: tuple[Any, ...], plural: bool) -> str:
    some = "lists" if plural else "a list"
    if origin is tuple and Ellipsis not in arguments:
        return f"{some} of {len(arguments)}: {', '.join(allowed(item) for item in arguments)}"
    return f"{some} of {allowed(arguments[0], plural=True) if arguments else 'values'}"


def _bounds(marks: tuple[Any, ...]) -> str:
    """` ≥ 1`, ` > 0 and ≤ 1`: the bounds that annotated_types gives; nothing for other marks."""
    parts: list[str] = []
    for mark in marks:
        for single in mark if isinstance(mark, annotated_types.GroupedMetadata) else (mark,):
            match single:
                case annotated_types.Gt(gt=value):
                    parts.append(f"> {value}")
                case annotated_types.Ge(ge=value):
                    parts.append(f"≥ {value}")
                case annotated_types.Lt(lt=value):
                    parts.append(f"< {value}")
                case annotated_types.Le(le=value):
                    parts.append(f"≤ {value}")
                case annotated_types.MultipleOf(multiple_of=value):
                    parts.append(f"a multiple of {value}")
                case annotated_types.MinLen(min_length=value):
                    parts.append(f"at least {value} long")
                case annotated_types.MaxLen(max_length=value):
                    parts.append(f"at most {value} long")
    return f" {' and '.join(parts)}" if parts else ""
