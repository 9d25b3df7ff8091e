"""A user's own annotated pictures: a folder as the Pascal VOC challenge has them, or as COCO does; so the public sets work, too.

    VOC      root/Annotations/*.xml, root/JPEGImages/*, and, where there are any, root/ImageSets/Main/{train,val,test}.txt
    COCO     root/annotations/*.json; files whose names say train, val or test are these splits; one alone is divided by us. Pictures are
             looked for in root/SPLIT, root/SPLIT2017 and the like (the folder named as the end of the JSON's name), root/images and root

What is prepared is decided by the content of annotations and pictures, not by where the root is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
        return {"name": self.name, "format": 2, "sources": [content], "pillow": PIL.__version__, **self.settings()}

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
    """Annotated pictures in the layout of the Pascal VOC challenge (VOCdevkit/VOC2007, say), or what LabelImg wrote in that form."""

    name: ClassVar[str] = "voc"

    def _files(self, root: Path) -> Iterator[Path]:
        annotations = root / "Annotations"
        if not annotations.is_dir():
            raise RequestError(f"data.path: {root} has no folder Annotations of XML files, as VOC has")
        for folder in (annotations, root / "JPEGImages", root / "ImageSets" / "Main"):
            if folder.is_dir():
                yield from sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def _given(self, root: Path, report: Report) -> tuple[Sequence[str], list[AnnotatedPicture]]:
        annotations: dict[str, Annotation] = {}
        for path in sorted((root / "Annotations").glob("*.xml")):
            try:
                annotations[path.stem] = read_voc(path.read_bytes(), path.name)
            except DataError as error:
                file, _, reason = str(error).partition(": ")
                report.add(file, reason, fatal=self.faults == "fail")
        splits = self._lists(root) or self._split(list(annotations))
        names = self.class_names or sorted({marked.name for each in annotations.values() for marked in each.objects})
        given = [
            AnnotatedPicture(annotation, partial(_content, _picture(root / "JPEGImages", annotation.picture, stem)), splits[stem])
            for stem, annotation in annotations.items()
            if stem in splits
        ]
        return names, given

    @staticmethod
    def _lists(root: Path) -> dict[str, str]:
        """The split of each picture by ImageSets/Main; empty where there is no train.txt. Without a test list `val` is split in no way."""
        lists = root / "ImageSets" / "Main"
        if not (lists / "train.txt").is_file():
            return {}
        found: dict[str, str] = {}
        for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
            if (lists / f"{name}.txt").is_file():
                found |= {line.split()[0]: split for line in (lists / f"{name}.txt").read_text("utf-8").splitlines() if line.split()}
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
