"""COCO's JSON of object detection (Lin et al. 2014): every picture with its objects, and every fault by line and place in its list.

A file is read list by list and element by element, so that the line of each is known: `line 40 (annotations[17])`. Of what is there
twice (a picture's id or file, a category's id or name, an annotation's id) the first counts and every other is a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.data.annotations import Annotation, Marked
from components.data.written import read_text
from components.errors import DataError

LISTS = ("images", "annotations", "categories")
LARGEST = 1e9
"""No side of a box in pixels is as long."""

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class CocoFile:
    """What is in a file.

    Attributes:
        class_names: in the order of their ids.
        pictures: every one with its objects and with faults that belong to it.
        faults: (place, reason) of what belongs to no picture.
    """

    class_names: list[str]
    pictures: list[Annotation]
    faults: list[tuple[str, str]]


def read_coco(path: Path) -> CocoFile:
    """Read a file.

    Raises:
        DataError: it is no JSON, or has not COCO's three lists.
    """
    reader = _Reader(path.name, _listed(path))
    names = reader.categories()
    pictures = reader.images()
    reader.annotations(names, pictures)
    return CocoFile([names[number] for number in sorted(names)], list(pictures.values()), reader.faults)


@dataclass
class _Reader:
    """Goes through the three lists, and collects what is wrong."""

    file: str
    lists: dict[str, list[tuple[str, Any]]]
    faults: list[tuple[str, str]] = field(default_factory=list)

    def categories(self) -> dict[int, str]:
        """Id → name."""
        found: dict[int, str] = {}
        named: dict[str, str] = {}
        for place, number, each in self._numbered("categories", "category"):
            name = each.get("name")
            if not isinstance(name, str) or not name.strip():
                self.faults.append((place, "the category has no name"))
            elif name.strip() in named:
                self.faults.append((place, f"the category's name {name.strip()!r} is that of {named[name.strip()]}, too"))
            else:
                found[number], named[name.strip()] = name.strip(), place
        return found

    def images(self) -> dict[int, Annotation]:
        """Id → picture, without objects yet."""
        found: dict[int, Annotation] = {}
        named: dict[str, str] = {}
        for place, number, each in self._numbered("images", "picture"):
            name = each.get("file_name")
            if not isinstance(name, str) or not name.strip():
                self.faults.append((place, "the picture has no file_name"))
            elif name in named:
                self.faults.append((place, f"the picture's file {name} is that of {named[name]}, too"))
            else:
                found[number], named[name] = Annotation(name, self.file, [], place=place), place
        return found

    def annotations(self, names: dict[int, str], pictures: dict[int, Annotation]) -> None:
        """Put every annotation to its picture."""
        for place, _, each in self._numbered("annotations", "annotation", optional=True):
            number = _whole(each.get("image_id"))
            picture = None if number is None else pictures.get(number)
            if picture is None:
                told = "has no image_id" if number is None else f"belongs to no picture that can be used (image_id {number})"
                self.faults.append((place, f"the annotation {told}"))
                continue
            box, category = each.get("bbox"), _whole(each.get("category_id"))
            if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
                picture.faults.append((place, "it has no bbox of four numbers"))
            elif category is None:
                picture.faults.append((place, "it has no category_id that is a whole number"))
            else:
                left, top, width, height = (float(side) for side in box)
                crowd = bool(each.get("iscrowd", 0))
                written = f"[{left:g}, {top:g}, {width:g}, {height:g}]"
                name = names.get(category, f"category {category}")
                picture.objects.append(Marked(name, (left, top, left + width, top + height), crowd, place, written, crowd))

    def _numbered(self, key: str, what: str, *, optional: bool = False) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """(place, id, element) of a list; no object, no id (where it is not optional; then −1), or an id a second time is a fault."""
        seen: dict[int, str] = {}
        for place, each in self.lists[key]:
            number = _whole(each.get("id")) if isinstance(each, dict) else None
            if not isinstance(each, dict):
                self.faults.append((place, f"the {what} is no object of JSON"))
            elif optional and each.get("id") is None:
                yield place, -1, each
            elif number is None:
                self.faults.append((place, f"the {what} has no whole number as its id"))
            elif number in seen:
                self.faults.append((place, f"the {what}'s id {number} is that of {seen[number]}, too"))
            else:
                seen[number] = place
                yield place, number, each


def _whole(value: Any) -> int | None:
    """A whole number, also where it is written as 7.0 or "7"; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _listed(path: Path) -> dict[str, list[tuple[str, Any]]]:
    """COCO's lists in a file, each element with its place; DataError where it is not of this kind."""
    text = read_text(path)
    try:
        found = dict(_members(text))
    except json.JSONDecodeError as error:
        raise DataError(f"{path.name}: line {error.lineno}: it is not JSON ({error.msg})") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise DataError(f"{path.name}: it cannot be read as JSON (it is nested too deeply, or has a number that is too long)") from error
    missing = [key for key in LISTS if not isinstance(found.get(key), list)]
    if missing:
        raise DataError(f"{path.name}: it has no list {missing[0]!r} (COCO's files are one object with {', '.join(LISTS)})")
    return {key: found[key] for key in LISTS}


def _members(text: str) -> Iterator[tuple[str, Any]]:
    """Keys and values of the object that a text is; of a list under one of COCO's keys [(place, element) …]. Nothing where it is none.

    Raises:
        json.JSONDecodeError: it is not JSON.
    """
    decode = json.JSONDecoder().raw_decode
    at = _after(text, 0)
    if not text.startswith("{", at):
        decode(text, at)
        return
    at, first = _after(text, at + 1), True
    while first or text.startswith(",", at):
        at = at if first else _after(text, at + 1)
        if first and text.startswith("}", at):
            break
        first = False
        key, at = decode(text, at)
        at = _expect(text, _after(text, at), ":")
        if key in LISTS and text.startswith("[", at):
            value, at = _elements(text, at, key)
        else:
            value, at = decode(text, at)
        yield str(key), value
        at = _after(text, at)
    at = _expect(text, at, "}")
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _elements(text: str, at: int, key: str) -> tuple[list[tuple[str, Any]], int]:
    """The elements of the list that begins at a place, each with where it is, and the place behind the list."""
    decode = json.JSONDecoder().raw_decode
    found: list[tuple[str, Any]] = []
    line, counted = 1, 0
    at = _after(text, at + 1)
    while not (text.startswith("]", at) and not found):
        line, counted = line + text.count("\n", counted, at), at
        value, at = decode(text, at)
        found.append((f"line {line} ({key}[{len(found)}])", value))
        at = _after(text, at)
        if not text.startswith(",", at):
            break
        at = _after(text, at + 1)
    return found, _expect(text, at, "]")


def _after(text: str, at: int) -> int:
    """The next place that is no white space."""
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _expect(text: str, at: int, sign: str) -> int:
    """The place behind a sign that has to be there, and behind white space."""
    if not text.startswith(sign, at):
        raise json.JSONDecodeError(f"Expecting {sign!r}", text, at)
    return _after(text, at + 1)
