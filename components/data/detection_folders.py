"""A user's own annotated pictures: a folder as the Pascal VOC challenge has them, or as COCO does; so the public sets work, too.

    VOC      root/Annotations/*.xml, root/JPEGImages/*, and, where there are any, root/ImageSets/Main/{train,val,test}.txt
    COCO     root/annotations/*.json; files whose names say train, val or test are these splits; one alone is divided by us. Pictures are
             looked for in root/SPLIT, root/SPLIT2017 and the like (the folder named as the end of the JSON's name), root/images and root

What is prepared is decided by the content of annotations and pictures, not by where the root is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import PIL
from annotated_types import Ge, Gt, Le, Len, Lt

from components.data.annotated_pictures import Annotated as AnnotatedPicture
from components.data.annotated_pictures import Faults, Report, Without, divided, write_annotated
from components.data.annotations import Annotation, read_voc
from components.data.coco_annotations import read_coco
from components.data.detection import DetectionData
from components.data.durable import sha256_of
from components.data.image_folder import SPLIT_FOLDERS
from components.errors import DataError, RequestError
from components.protocols import Fetch

Side = Annotated[int, Ge(16), Le(2048)]


@dataclass(frozen=True, kw_only=True)
class _Folder(DetectionData):
    """What both kinds of folder share.

    Attributes:
        path: the root folder.
        size: [height, width] in pixels that every picture is stretched to.
        class_names: the classes, in order; empty means all that occur (VOC) or are listed (COCO), others are faults.
        validation: share of the pictures to validate on, where nothing says which.
        test: share of the pictures to test on, where nothing says which.
        split_seed: which pictures are in which split.
        faults: what to do about what is wrong: leave it out and list it in the card, or fail.
        without_objects: what becomes of pictures in which nothing is marked.
    """

    path: str
    size: Annotated[list[Side], Len(2, 2)]
    class_names: list[str]
    validation: Annotated[float, Gt(0), Lt(1)] = 0.1
    test: Annotated[float, Gt(0), Lt(1)] = 0.1
    split_seed: Annotated[int, Ge(0)] = 0
    faults: Faults = "drop"
    without_objects: Without = "drop"

    name: ClassVar[str]
    version: ClassVar[int]
    """Grows when the same files come out otherwise than before."""

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        twice = [name for place, name in enumerate(self.class_names) if name in self.class_names[:place]]
        if twice:
            raise ValueError(f"class_names has {twice[0]!r} twice")
        if not all(name.strip() for name in self.class_names):
            raise ValueError("class_names has a name that is empty")

    def recipe(self) -> dict[str, Any]:
        """One hash over every annotation's and picture's name and content, every setting, and the decoder's version; reads every file.

        Raises:
            RequestError: there is no such folder, or it is of another kind.
        """
        root = self._root()
        lines = "".join(f"{sha256_of(path)}  {path.relative_to(root).as_posix()}\n" for path in self._files(root))
        content = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
        return {"name": self.name, "format": self.version, "sources": [content], "pillow": PIL.__version__, **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — the files are here already
        """Write the prepared file; the data card, with every fault by file and line.

        Raises:
            RequestError: there is no such folder, or it is of another kind.
            DataError: there are faults and they are fatal, or nothing to train on is left.
        """
        root, report = self._root(), Report()
        names, given = self._given(root, report)
        if not names:
            raise DataError(f"{root}: nothing is marked in any picture")
        written = write_annotated(
            into,
            given,
            size=self.size,
            class_names=names,
            faults=self.faults,
            without_objects=self.without_objects,
            report=report,
        )
        return {
            "source": str(root),
            "upstream": "the user's own files",
            "licence": "the user's own",
            "pixels": f"RGB, brought to {self.size[0]}×{self.size[1]}, EXIF rotation applied, transparency on white",
            **written,
        }

    def _root(self) -> Path:
        root = Path(self.path).expanduser().absolute()
        if not root.is_dir():
            raise RequestError(f"data.path: {root} {'is not a folder' if root.exists() else 'does not exist'}")
        return root

    def _files(self, root: Path) -> Iterator[Path]:
        """Every file that decides the content, in order."""
        raise NotImplementedError

    def _given(self, root: Path, report: Report) -> tuple[Sequence[str], list[AnnotatedPicture]]:
        """Class names, and every picture with its split; files at fault are reported."""
        raise NotImplementedError

    def _split(self, names: Sequence[str]) -> dict[str, str]:
        if len(names) < 3:
            raise DataError(f"{self.path}: {len(names)} annotated pictures cannot be divided into training, validation and test")
        return divided(names, {"validation": self.validation, "test": self.test}, seed=self.split_seed)


@dataclass(frozen=True, kw_only=True)
class VocFolder(_Folder):
    """Annotated pictures in the layout of the Pascal VOC challenge (VOCdevkit/VOC2007, say), or what LabelImg wrote in that form.

    A picture has one annotation, and is in one list: of what is there twice the first counts, and every other is a fault.
    """

    name: ClassVar[str] = "voc"
    version: ClassVar[int] = 3

    def _files(self, root: Path) -> Iterator[Path]:
        annotations = root / "Annotations"
        if not annotations.is_dir():
            raise RequestError(f"data.path: {root} has no folder Annotations of XML files, as VOC has")
        for folder in (annotations, root / "JPEGImages", root / "ImageSets" / "Main"):
            if folder.is_dir():
                yield from sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def _given(self, root: Path, report: Report) -> tuple[Sequence[str], list[AnnotatedPicture]]:
        fatal = self.faults == "fail"
        files = {path.stem: path for path in sorted((root / "Annotations").glob("*.xml"))}
        annotations: dict[str, Annotation] = {}
        for stem, path in files.items():
            try:
                annotations[stem] = read_voc(_content(path), path.name)
            except DataError as error:
                report.add(path.name, str(error).removeprefix(f"{path.name}: "), fatal=fatal)
        lists = self._lists(root, files, report, fatal=fatal)
        pictures = self._once(root, [stem for stem in annotations if lists is None or stem in lists], annotations, report, fatal=fatal)
        splits = self._split(list(pictures)) if lists is None else lists
        names = self.class_names or sorted({marked.name for each in annotations.values() for marked in each.objects})
        return names, [AnnotatedPicture(annotations[stem], partial(_content, path), splits[stem]) for stem, path in pictures.items()]

    @staticmethod
    def _lists(root: Path, known: Container[str], report: Report, *, fatal: bool) -> dict[str, str] | None:
        """The split of each picture by ImageSets/Main; None without a train.txt. Without a test list `val` is split in no way.

        Faults are pictures without an XML file among those `known`, and such as are listed already.
        """
        lists = root / "ImageSets" / "Main"
        if not (lists / "train.txt").is_file():
            return None
        found: dict[str, str] = {}
        places: dict[str, str] = {}
        for split, name in (("train", "train.txt"), ("validation", "val.txt"), ("test", "test.txt")):
            if not (lists / name).is_file():
                continue
            for number, line in enumerate(_content(lists / name).decode("utf-8-sig", "replace").splitlines(), 1):
                stem = line.strip()
                if stem not in known:
                    stem = next(iter(line.split()), "")  # a class's list has 1, 0 or −1 behind
                if not stem:
                    continue
                place = f"{name}: line {number}"
                if stem not in known:
                    report.add(place, f"{stem} has no {stem}.xml in {root / 'Annotations'}", fatal=fatal)
                elif stem in found:
                    report.add(place, f"{stem} is there already ({places[stem]})", fatal=fatal)
                else:
                    found[stem], places[stem] = split, place
        return found

    @staticmethod
    def _once(root: Path, stems: Iterable[str], annotations: Mapping[str, Annotation], report: Report, *, fatal: bool) -> dict[str, Path]:
        """The picture of each annotation; one whose picture another has already is a fault, and left out."""
        found: dict[str, Path] = {}
        first: dict[Path, str] = {}
        for stem in stems:
            annotation = annotations[stem]
            path = _picture(root / "JPEGImages", annotation.picture, stem)
            if path.is_file() and first.setdefault(path.resolve(), annotation.source) != annotation.source:
                place = ": ".join(filter(None, (annotation.source, annotation.place)))
                report.add(place, f"{path.name} is there already ({first[path.resolve()]})", fatal=fatal)
            else:
                found[stem] = path
        return found


def _picture(folder: Path, written: str, stem: str) -> Path:
    """Where the picture is: under the name that is written, else under the annotation's with any ending."""
    if written and (folder / Path(written).name).is_file():
        return folder / Path(written).name
    return next(iter(sorted(folder.glob(f"{stem}.*"))), folder / (Path(written).name or f"{stem}.jpg"))


@dataclass(frozen=True, kw_only=True)
class CocoFolder(_Folder):
    """Annotated pictures in the layout of COCO."""

    name: ClassVar[str] = "coco"
    version: ClassVar[int] = 2

    def _files(self, root: Path) -> Iterator[Path]:
        yield from self._jsons(root)
        for folder in sorted({folder for path in self._jsons(root) for folder in _places(root, path) if folder != root}):
            if folder.is_dir():
                yield from sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    @staticmethod
    def _jsons(root: Path) -> list[Path]:
        found = sorted((root / "annotations").glob("*.json")) or sorted(root.glob("*.json"))
        if not found:
            raise RequestError(f"data.path: {root} has no annotations/*.json, as COCO has")
        return [path for path in found if path.name.startswith("instances_")] or found  # the public set has captions and more beside them

    def _given(self, root: Path, report: Report) -> tuple[Sequence[str], list[AnnotatedPicture]]:
        jsons = self._jsons(root)
        if len(jsons) > 1:
            said = {path: split for path in jsons if (split := _split_of(path)) is not None}
            if "train" not in said.values():
                raise RequestError(f"data.path: of {', '.join(path.name for path in jsons)} none says train in its name")
        else:
            said = {}
        names: list[str] = list(self.class_names)
        given: list[AnnotatedPicture] = []
        for path in said or jsons:
            listed = read_coco(path)
            for place, reason in listed.faults:
                report.add(f"{path.name}: {place}", reason, fatal=self.faults == "fail")
            names = names or listed.class_names
            pictures = [each.picture for each in listed.pictures]
            splits = dict.fromkeys(pictures, said[path]) if said else self._split(pictures)
            given += [AnnotatedPicture(each, partial(_found, root, path, each.picture), splits[each.picture]) for each in listed.pictures]
        return names, given


def _split_of(path: Path) -> str | None:
    """The split that a JSON's name says: `instances_val2017` is validation."""
    words = "".join(letter if letter.isalpha() else " " for letter in path.stem.lower()).split()
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), None)


def _places(root: Path, json: Path) -> list[Path]:
    """Folders in which the pictures of a JSON may be, most likely first."""
    end = json.stem.rpartition("_")[2]
    return [root / end, root / "images" / end, root / "images", root]


def _found(root: Path, json: Path, picture: str) -> bytes:
    """The content of a picture, wherever it is below the root.

    Raises:
        DataError: it is nowhere, or cannot be read, or its name leads out of the root.
    """
    name = Path(picture)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"its name leads out of the folder {root}")
    places = [folder / name for folder in _places(root, json)]
    return _content(next((path for path in places if path.is_file()), places[0]))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no such file in {path.parent}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"it cannot be read ({getattr(error, 'strerror', None) or error})") from error
