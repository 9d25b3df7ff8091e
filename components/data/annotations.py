"""Annotations of objects as people have them: VOC's XML, COCO's JSON. Read with the line or number of each, for whoever has to mend one.

Boxes come out as left, top, right, bottom in pixels, with areas of width times height. VOC counts pixels from 1 and includes the last,
so its left upper corner moves by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from components.data.written import read_text
from components.errors import DataError


@dataclass(frozen=True)
class Marked:
    """One object as it is written down.

    Attributes:
        name: its class.
        box: left, top, right, bottom in pixels; may be wrong.
        difficult: hard to see (VOC), or a crowd (COCO).
        place: where it is written: `line 12`, or `annotation 34`.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    place: str


@dataclass(frozen=True)
class Annotation:
    """One picture and what is marked in it.

    Attributes:
        picture: its file name, as it is written down.
        source: what the annotation's file is called, for reports.
        objects: everything that is marked.
        faults: (place, reason) of what could not be read at all.
    """

    picture: str
    source: str
    objects: list[Marked]
    faults: list[tuple[str, str]] = field(default_factory=list)


def read_voc(content: bytes, source: str) -> Annotation:
    """One XML file of the Pascal VOC challenge (Everingham et al. 2010), as LabelImg and others write it, too.

    Raises:
        DataError: it is no XML, or not of this kind; names the line.
    """
    reader = _VocReader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, _: reader.begin(name, parser.CurrentLineNumber)
    parser.EndElementHandler = lambda _: reader.end()
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"{source}: line {error.lineno}: it is not XML ({expat.ErrorString(error.code)})") from error
    if reader.root != "annotation":
        raise DataError(f"{source}: line 1: it begins with <{reader.root}> where VOC's annotations begin with <annotation>")
    return Annotation(reader.picture, source, reader.objects, reader.faults)


class _VocReader:
    """Collects the objects while the XML goes by."""

    def __init__(self) -> None:
        self.root, self.picture = "", ""
        self.objects: list[Marked] = []
        self.faults: list[tuple[str, str]] = []
        self.path: list[str] = []
        self.values: dict[str, str] = {}
        self.line, self.said = 0, ""

    def begin(self, name: str, line: int) -> None:
        self.root = self.root or name
        self.path.append(name)
        self.said = ""
        if self.path[1:] == ["object"]:
            self.values, self.line = {}, line

    def text(self, said: str) -> None:
        self.said += said

    def end(self) -> None:
        match self.path[1:]:
            case ["filename"]:
                self.picture = self.said.strip()
            case ["object", ("name" | "difficult") as key] | ["object", "bndbox", key]:
                self.values[key] = self.said.strip()
            case ["object"]:
                self._object()
        self.path.pop()
        self.said = ""

    def _object(self) -> None:
        place = f"line {self.line}"
        if "name" not in self.values:
            self.faults.append((place, "the object has no name"))
            return
        try:
            left, top, right, bottom = (float(self.values[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        except KeyError as error:
            self.faults.append((place, f"the object has no {error.args[0]}"))
        except ValueError as error:
            self.faults.append((place, f"a side of the box is no number ({str(error).rpartition(': ')[2]})"))
        else:
            difficult = self.values.get("difficult", "0") == "1"
            self.objects.append(Marked(self.values["name"], (left - 1, top - 1, right, bottom), difficult, place))


def read_coco(path: Path) -> tuple[list[str], list[Annotation]]:
    """A file of COCO's object detection (Lin et al. 2014): class names in the order of their ids, and every picture.

    Raises:
        DataError: it is no JSON, or not of this kind.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path.name}: line {error.lineno}: it is not JSON ({error.msg})") from error
    try:
        names = {int(each["id"]): str(each["name"]) for each in sorted(content["categories"], key=lambda each: int(each["id"]))}
        pictures = {int(each["id"]): Annotation(str(each["file_name"]), path.name, []) for each in content["images"]}
        annotations: list[Mapping[str, Any]] = list(content["annotations"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path.name}: it lacks COCO's images, annotations or categories, or what belongs to them ({error})") from error
    for number, each in enumerate(annotations):
        place = f"annotation {each.get('id', number)}" if isinstance(each, Mapping) else f"annotation {number}"
        try:
            picture = pictures[int(each["image_id"])]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path.name}: {place} belongs to no picture of the file") from error
        try:
            left, top, width, height = (float(side) for side in each["bbox"])
            name = names.get(int(each["category_id"]), f"category {each['category_id']}")
        except (KeyError, TypeError, ValueError) as error:
            picture.faults.append((place, f"it has no bbox of four numbers, or no category ({error})"))
            continue
        picture.objects.append(Marked(name, (left, top, left + width, top + height), bool(each.get("iscrowd", 0)), place))
    return list(names.values()), list(pictures.values())
