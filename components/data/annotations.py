"""Annotations of objects as people have them, with the line of each, for whoever has to mend one; VOC's XML is read here.

Boxes come out as left, top, right, bottom in pixels, with areas of width times height. VOC counts pixels from 1 and includes the last,
so its left upper corner moves by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from components.errors import DataError


@dataclass(frozen=True)
class Marked:
    """One object as it is written down.

    Attributes:
        name: its class.
        box: left, top, right, bottom in pixels; may be wrong.
        difficult: hard to see (VOC), or a crowd (COCO): counts neither as found nor as missed.
        place: where it is written: `line 12`, or `line 12 (annotations[34])`.
        written: its box as the file has it, for reports.
        crowd: the box is around many objects that are not told apart (COCO): no detector learns from it.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    place: str
    written: str = field(default="", compare=False)
    crowd: bool = False


@dataclass(frozen=True)
class Annotation:
    """One picture and what is marked in it.

    Attributes:
        picture: its file name, as it is written down.
        source: what the annotation's file is called, for reports.
        objects: everything that is marked.
        faults: (place, reason) of what could not be read at all.
        place: where the picture is named, `line 2`; empty where it is not.
    """

    picture: str
    source: str
    objects: list[Marked]
    faults: list[tuple[str, str]] = field(default_factory=list)
    place: str = ""


def read_voc(content: bytes, source: str) -> Annotation:
    """One XML file of the Pascal VOC challenge (Everingham et al. 2010), as LabelImg and others write it, too.

    Raises:
        DataError: it is no XML, or not of this kind, or defines entities, which could make a small file a large one; names the line.
    """

    def refuse(*_: object) -> None:
        raise DataError(f"{source}: line {parser.CurrentLineNumber}: it defines entities, which no annotation does")

    reader = _VocReader()
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = lambda name, _: reader.begin(name, parser.CurrentLineNumber)
    parser.EndElementHandler = lambda _: reader.end()
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"{source}: line {error.lineno}: it is not XML ({expat.ErrorString(error.code)})") from error
    if reader.root != "annotation":
        raise DataError(f"{source}: line 1: it begins with <{reader.root}> where VOC's annotations begin with <annotation>")
    return Annotation(reader.picture, source, reader.objects, reader.faults, reader.place)


class _VocReader:
    """Collects the objects while the XML goes by."""

    def __init__(self) -> None:
        self.root, self.picture, self.place = "", "", ""
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
        if self.path[1:] == ["filename"]:
            self.place = f"line {line}"

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
        if not self.values.get("name"):
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
            written = f"({left:g}, {top:g}, {right:g}, {bottom:g})"
            self.objects.append(Marked(self.values["name"], (left - 1, top - 1, right, bottom), difficult, place, written))
